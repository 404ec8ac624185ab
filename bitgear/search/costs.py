"""What a layer's width costs in accuracy, before any plan is run. docs/search.md compares these costs by measurement.

Two begin with what rounding takes from the weights: ``||W - W_b||^2``, in real units, between the master's 8-bit
weights and those of width b. HAWQ weighs it by the average trace of the Hessian of the loss. The third is measured.
"""

from collections.abc import Callable, Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import MASTER_BITS, LayerBits, Plan
from bitgear.checkpoint import Master
from bitgear.engines.base import Engine
from bitgear.errors import SearchError
from bitgear.rounding import derive
from bitgear.search.distance import Distance, moved
from bitgear.search.space import Space, Table


class Cost(StrEnum):
    """``weights``: the error of the weights as it is. ``hessian``: times the layer's average trace (HAWQ).

    ``measured``: what the output moves by when the layer alone is lowered.
    """

    WEIGHTS = "weights"
    HESSIAN = "hessian"
    MEASURED = "measured"


def weight_costs(space: Space) -> Table:
    """Return the error that every unit's weights have at every width: none negative and 0 at 8 bits."""
    return _errors(space, dict.fromkeys(space.names, 1.0))


def hessian_costs(space: Space) -> Table:
    """Return the same, times each layer's average trace.

    Raises :class:`~bitgear.errors.SearchError` if the master lacks traces.
    """
    return _errors(space, traces_of(space.master))


def _errors(space: Space, factors: Mapping[str, float]) -> Table:
    return np.array(
        [
            sum(
                np.array([weight_error(space.master, name, bits) for bits in space.widths]) * factors[name]
                for name in unit.names
            )
            for unit in space.units
        ]
    )


def measured_costs(
    space: Space, engine: Engine, q_images: NDArray[np.int8], progress: Callable[[int], object] = lambda _: None
) -> Table:
    """Return what the output moves by (:func:`~bitgear.search.distance.moved`) when each unit alone is lowered.

    ``q_images``: int8 codes (N, 3, H, W). ``progress`` is called with 1 after each unit.
    """
    full, distance = LayerBits(MASTER_BITS, MASTER_BITS), Distance(space.master, engine, q_images, moved)
    rows = []
    for unit in space.units:
        lowered = (Plan(full, tuple((name, LayerBits(bits, bits)) for name in unit.names)) for bits in space.widths)
        rows.append([distance.of(space.master, plan) for plan in lowered])
        progress(1)
    return np.array(rows)


def traces_of(master: Master) -> dict[str, float]:
    """Return each layer's average trace; estimates below 0, which a trace at a minimum cannot be, become 0."""
    if not master.sensitivities:
        raise SearchError(
            f"model {master.name!r} holds no Hessian traces; write them into it with bitgear hessian, or choose the "
            "cost 'weights'"
        )
    return {name: max(value, 0.0) for name, value in master.sensitivities.items()}


def weight_error(master: Master, name: str, bits: int) -> float:
    """Return the sum of the squares of what a width takes from a layer's weights, in real units."""
    codes = master.tensors[f"{name}.weight"]
    scales = master.tensors[f"{name}.weight_scale"].astype(np.float64).reshape(-1, 1)
    lost = derive(codes, bits).astype(np.float64) * 2 ** (MASTER_BITS - bits) - codes
    return float(np.square(lost.reshape(len(codes), -1) * scales).sum())
