"""Made-up ladders for tests."""

from bitgear.bits import Plan
from server.ladder import Ladder, Rung

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
        Rung(str(bits), Plan.uniform(bits), accuracy, time_ms * fixed_share, time_ms * (1 - fixed_share))
        for bits, (time_ms, accuracy) in times.items()
    )
    return Ladder.of("made-up", rungs, max_batch)


def flat(*widths: int) -> Ladder:
    """A ladder on which no width is faster than another."""
    return ladder_of({bits: (5.0, 0.5 + bits / 100) for bits in widths})
