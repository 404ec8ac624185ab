"""Plans in a picture: a row for each plan, a column for each layer, widths as numbers on colours."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bitgear.bits import LayerBits

WIDTH_COLORS = {8: "#1b3a6b", 7: "#2f6690", 6: "#3a8fb7", 5: "#66b2a6", 4: "#d9a441", 3: "#d97b3f", 2: "#b8323c"}


def draw_widths(axes: Any, layers: Sequence[str], plans: Mapping[str, Mapping[str, LayerBits]]) -> None:
    """Draw the bits of every layer's weights, and after a stroke those of its activations where they are others."""
    rgb = {bits: list(bytes.fromhex(color.removeprefix("#"))) for bits, color in WIDTH_COLORS.items()}
    cells = [[rgb[of[layer].weight_bits] for layer in layers] for of in plans.values()]
    axes.imshow(np.array(cells, np.uint8), aspect="auto")
    apart = False
    for row, of in enumerate(plans.values()):
        for column, layer in enumerate(layers):
            bits = of[layer]
            others = bits.act_bits != bits.weight_bits
            text = f"{bits.weight_bits}/{bits.act_bits}" if others else str(bits.weight_bits)
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white")
            apart |= others
    axes.set_yticks(range(len(plans)), list(plans), fontsize=8)
    axes.set_ylabel("bits of weights\n/ activations" if apart else "bits")
