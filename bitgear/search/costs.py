"""What a layer's width costs in accuracy, before any plan is run. docs/search.md compares these costs by measurement.

All begin with what rounding takes from the weights: ``||W - W_b||^2``, in real units, between the master's 8-bit
weights and those of width b. HAWQ weighs it by the average trace of the Hessian of the loss.
"""

from enum import StrEnum

import numpy as np

from bitgear.bits import MASTER_BITS
from bitgear.checkpoint import Master
from bitgear.errors import SearchError
from bitgear.rounding import derive
from bitgear.search.space import Space, Table


class Cost(StrEnum):
    """``weights``: the error of the weights as it is. ``hessian``: times the layer's average trace (HAWQ)."""

    WEIGHTS = "weights"
    HESSIAN = "hessian"


def cost_table(space: Space, cost: Cost) -> Table:
    """Return the cost of every unit at every width, none negative and 0 at 8 bits.

    Raises :class:`~bitgear.errors.SearchError` if traces are wanted that the master lacks.
    """
    traces = traces_of(space.master) if cost is Cost.HESSIAN else None
    return np.array(
        [
            sum(
                np.array([weight_error(space.master, name, bits) for bits in space.widths])
                * (1 if traces is None else traces[name])
                for name in unit.names
            )
            for unit in space.units
        ]
    )


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
