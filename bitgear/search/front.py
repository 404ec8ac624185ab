"""Which of the plans that were tried are worth a name: those that no width and no other plan dominates."""

from collections.abc import Sequence

from bitgear.search.evolution import undominated
from bitgear.search.trials import Trial


def worthwhile(plans: Sequence[Trial], widths: Sequence[Trial], count: int) -> list[Trial]:
    """Return up to ``count`` plans that nothing dominates in time and accuracy, fastest first.

    Where there are more, those that add most, one after the other: the area in the plane of time and accuracy that they
    dominate and the widths and those before do not.
    """
    open_plans = [trial for trial in undominated([*widths, *plans]) if trial.plan.layers]
    chosen: list[Trial] = []
    while open_plans and len(chosen) < count:
        best = max(open_plans, key=lambda trial: area([*widths, *chosen, trial], widths))
        open_plans.remove(best)
        chosen.append(best)
    return sorted(chosen, key=lambda trial: trial.use)


def area(trials: Sequence[Trial], widths: Sequence[Trial]) -> float:
    """Return the area that trials dominate, down to the least accurate width and up to a little over the slowest."""
    slowest, worst = 1.05 * max(trial.use for trial in widths), min(trial.score for trial in widths)
    total, before = 0.0, worst
    for trial in undominated(trials):
        gained = max(trial.score - before, 0)
        total += max(slowest - trial.use, 0) * gained
        before = max(before, trial.score)
    return total
