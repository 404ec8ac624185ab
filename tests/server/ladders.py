"""Made-up ladders for tests."""

from bitgear.bits import LayerBits, Plan
from server.ladder import Ladder, Rung, by_time

FAST = {
    8: (10.0, 0.92),
    7: (9.0, 0.919),
    6: (8.0, 0.918),
    5: (7.0, 0.916),
    4: (6.0, 0.91),
    3: (5.0, 0.9),
    2: (4.0, 0.88),
}
"""Width: milliseconds of one image, accuracy."""


def ladder_of(times: dict[int, tuple[float, float]] = FAST, *, max_batch: int = 8, fixed_share: float = 0.5) -> Ladder:
    """A ladder in which each width takes this long for one image, ``fixed_share`` of that whatever the batch."""
    rungs = tuple(
        Rung(str(bits), Plan.uniform(bits), bits, accuracy, time_ms * fixed_share, time_ms * (1 - fixed_share))
        for bits, (time_ms, accuracy) in times.items()
    )
    return Ladder.of("made-up", rungs, max_batch)


def flat(*widths: int) -> Ladder:
    """A ladder on which no width is faster than another."""
    return ladder_of({bits: (5.0, 0.5 + bits / 100) for bits in widths})


def plan_rung(name: str, mean_bits: float, time_ms: float, accuracy: float, fixed_share: float = 0.5) -> Rung:
    """A named plan that takes this long for one image."""
    plan = Plan(LayerBits(8, 8), ((name, LayerBits(2, 2)),))
    return Rung(name, plan, mean_bits, accuracy, time_ms * fixed_share, time_ms * (1 - fixed_share))


def with_plans(ladder: Ladder, *plans: Rung) -> Ladder:
    """The ladder with plans, each where its time puts it."""
    return Ladder.of(ladder.model, by_time((*ladder.rungs, *plans)), ladder.max_batch)
