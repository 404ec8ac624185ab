"""What share of requests any policy can keep in time, by cores and by what a narrow width gains.

    python -m benchmarks.bounds

The objective is a multiple of what one request takes at the widest precision, on one core; load 1 is what all cores
serve at it. So the cores decide how many requests fit into the objective, and the gain how many more at the narrowest
precision. The bound is :func:`~benchmarks.attainment.ceiling`: one server as fast as all cores together at the
narrowest width, all the time. No measurement goes into it.
"""

import itertools
from pathlib import Path

import numpy as np

from benchmarks.attainment import ceiling
from benchmarks.cases import BAR_LOADS, BURSTY_CV2, SLO_FACTOR, Scene
from benchmarks.measure import command_line, write_report

CORES, GAINS = (2, 4, 8), (1.2, 1.4, 1.6, 1.8, 2.0, 2.5)
REQUESTS, SEEDS = 20_000, 3


def bound(cores: int, gain: float, load: float) -> float:
    """Return the share, 0..1; ``gain``: how many times as fast as the widest precision the narrowest one is."""
    scene = Scene("gamma", load, BURSTY_CV2)
    due_s = [scene.moments(cores, REQUESTS / cores, seed, None) for seed in range(SEEDS)]
    return float(np.mean([ceiling(due, cores * gain, 1000 * SLO_FACTOR) for due in due_s]))


def main() -> None:
    """Compute, print and write the report."""
    parser = command_line(__doc__)
    parser.add_argument("--json", type=Path, help="the report, instead of benchmarks/results/bounds.json")
    arguments = parser.parse_args()
    rows = [
        {"cores": cores, "gain": gain, "load": load, "ceiling": bound(cores, gain, load)}
        for cores, gain, load in itertools.product(CORES, GAINS, BAR_LOADS)
    ]
    report = {"cv2": BURSTY_CV2, "slo_factor": SLO_FACTOR, "rows": rows}
    for row in rows:
        print(f"{row['cores']} cores, {row['gain']} times as fast, load {row['load']}: {row['ceiling']:.4f}")
    print(f"wrote {write_report('bounds', report, arguments.json)}")


if __name__ == "__main__":
    main()
