"""Weights that swing between two codes are held still (Nagel et al. 2022, "Overcoming oscillations", section 4.3)."""

from typing import Any

import torch
from torch import Tensor

from trainer.model import QuantNet, require
from trainer.quantizers import derive_codes


class Freezing:
    """Watches the codes of every searchable convolution at a width, and holds weights that swing too often.

    A swing is a change of a code back from where its last change came. A weight freezes once the moving average of its
    swings passes ``most`` (0..1): at its 8-bit code, moved into the code that it had most of the time at that width, so
    that its codes at all widths stay even when the scale moves.
    """

    def __init__(self, model: QuantNet, bits: int, most: float, momentum: float = 0.02) -> None:
        self.bits = bits
        self.most = most
        self.momentum = momentum
        self.layers = {conv.name: model.layer(conv.name) for conv in model.graph.searchable}
        self.state: dict[str, dict[str, Tensor]] = {}
        for name, layer in self.layers.items():
            codes = self._codes(name)
            weight = require(layer.weight)
            self.state[name] = {
                "codes": codes, "average": codes.clone(), "direction": torch.zeros_like(codes),
                "swings": torch.zeros_like(codes), "held": torch.full_like(weight, torch.nan, requires_grad=False),
            }  # fmt: skip

    @property
    def share(self) -> float:
        """The share of the weights that are held, 0..1."""
        held = [of["held"].isfinite() for of in self.state.values()]
        return float(sum(int(each.sum()) for each in held) / sum(each.numel() for each in held))

    @torch.no_grad()
    def watch(self) -> None:
        """Look at the codes once more, after a step, and freeze what swings too often."""
        step = 2.0 ** (8 - self.bits)
        for name, of in self.state.items():
            codes = self._codes(name)
            change = (codes - of["codes"]).sign()
            swung = (change * of["direction"] < 0).to(codes.dtype)
            of["swings"].lerp_(swung, self.momentum)
            of["average"].lerp_(codes, self.momentum)
            of["direction"] = torch.where(change == 0, of["direction"], change)
            of["codes"] = codes
            centre = of["average"].round() * step
            inside = max(step / 2 - 1, 0.0)  # a code of 8 bits has one place, not a half
            place = torch.clamp(self._units(name).round(), centre - inside, centre + inside)
            fresh = (of["swings"] > self.most) & of["held"].isnan()
            of["held"] = torch.where(fresh, place, of["held"])
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Put weights that are held back in their places, after a step."""
        for name, of in self.state.items():
            layer = self.layers[name]
            weight, scale = require(layer.weight), self._scale(name)
            weight.copy_(torch.where(of["held"].isnan(), weight, of["held"] * scale))

    def state_dict(self) -> dict[str, Any]:
        """Return what a run resumes from."""
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.state = state

    def _scale(self, name: str) -> Tensor:
        layer = self.layers[name]
        weight = require(layer.weight)
        return require(layer.weight_log_scale).detach().exp().reshape(-1, *[1] * (weight.dim() - 1))

    def _units(self, name: str) -> Tensor:
        return require(self.layers[name].weight).detach() / self._scale(name)

    def _codes(self, name: str) -> Tensor:
        return derive_codes(self._units(name), self.bits)
