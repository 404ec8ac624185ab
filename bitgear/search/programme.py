"""The widths of least cost within limits: an integer linear programme.

One of a unit's widths is chosen: variables x[u, b] in {0, 1} that sum to 1 over b. The sum of cost[u, b] x[u, b] is
minimised while the sum of what each limit counts stays within it. (The paper's Algorithm 2 prints an objective that
gives the most sensitive layers the fewest bits: docs/search.md.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitgear.errors import of_extra
from bitgear.search.space import Choice, Space, Table

_LARGEST = 1e4
"""The largest cost that the solver sees. It takes differences of less than 1e-6 for nothing."""


@dataclass(frozen=True)
class Limit:
    """Something that a choice may take only so much of: the sum of ``table`` over its units is at most ``most``."""

    table: Table
    most: float


def check_solver() -> None:
    """Raise :class:`~bitgear.errors.EngineUnavailable` if SciPy, which solves programmes, cannot be imported."""
    with of_extra("searching for plans", "search"):
        import scipy.optimize  # noqa: F401


def solve(space: Space, costs: Table, limits: Sequence[Limit], pin: tuple[int, int] | None = None) -> Choice | None:
    """Return the choice of least cost within the limits; None if there is none.

    ``pin``: a unit's index and the width that it must have. Raises :class:`~bitgear.errors.EngineUnavailable` if SciPy
    is not installed.
    """
    check_solver()
    from scipy.optimize import Bounds, LinearConstraint, milp

    units, widths = costs.shape
    once = np.kron(np.eye(units), np.ones(widths))
    constraints = [LinearConstraint(once, 1, 1)]
    for limit in limits:
        size = max(float(np.abs(limit.table).max()), 1e-30)
        constraints.append(LinearConstraint(limit.table.reshape(1, -1) / size, -np.inf, limit.most / size + 1e-9))
    open_to = np.tile([bits in space.open for bits in space.widths], (units, 1))
    if pin is not None:
        open_to[pin[0]] = [bits == pin[1] for bits in space.widths]
    least = costs.min(axis=1, keepdims=True)
    scale = _LARGEST / max(float((costs - least).max()), 1e-30)
    found = milp(
        ((costs - least) * scale).reshape(-1), constraints=constraints, integrality=np.ones(costs.size),
        bounds=Bounds(0, open_to.reshape(-1).astype(float)), options={"mip_rel_gap": 0},
    )  # fmt: skip
    if found.x is None:
        return None
    return tuple(space.widths[i] for i in found.x.reshape(units, widths).argmax(axis=1))


def candidates(space: Space, costs: Table, limits: Sequence[Limit], count: int) -> list[Choice]:
    """Return up to ``count`` choices within the limits, least cost first; none if no choice keeps them.

    After the best one, each unit in turn is held at each other width, up to the largest one used, and the programme is
    solved again.
    """
    best = solve(space, costs, limits)
    if best is None:
        return []
    found = {best}
    for unit, chosen in enumerate(best):
        for bits in space.open:
            if bits != chosen and bits <= max(best) and count > 1:
                other = solve(space, costs, limits, (unit, bits))
                if other is not None:
                    found.add(other)
    return sorted(found, key=lambda choice: (space.total(costs, choice), choice))[:count]
