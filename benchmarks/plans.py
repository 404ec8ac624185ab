"""What widths, named plans and plans drawn at random take: whole calls, beside the prediction from layer timings.

    python -m benchmarks.plans [--models NAME ...] [--random 12] [--seconds 6] [--json FILE]

Calls are of single pictures with one thread; all precisions of a model take turns. "Measured" is, as for the layers,
the least of the medians of a few calls: a busy machine only adds to them.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import command_line, summary, write_report
from bitgear.bits import Plan
from bitgear.checkpoint import Master, read_master
from bitgear.engines.native import NativeModel
from bitgear.engines.registry import create_native
from bitgear.models import find_master, shipped_masters
from bitgear.search.space import Space
from bitgear.search.timings import MIN_PASSES, ROUNDS, measure_timings, random_picture


def main() -> None:
    """Run the measurement and print a table."""
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", default=list(shipped_masters()))
    parser.add_argument("--random", type=int, default=12)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="of layer timings, and again of whole calls, a model"
    )
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    reports = {}
    for name in arguments.models:
        reports[name] = report = measure(read_master(find_master(name)), arguments.random, arguments.seconds)
        print(f"{name}: predicted by measured, {report['least_ratio']:.3f} to {report['largest_ratio']:.3f}")
        for precision, row in report["precisions"].items():
            print(f"  {precision:14} {row['ms']:8.4f} ms, predicted {row['predicted_ms']:8.4f}  {row['ratio']:6.3f}")
    print(f"wrote {write_report('plans', {'threads': 1, 'models': reports}, arguments.json)}")


def measure(master: Master, drawn: int, seconds: float) -> dict[str, Any]:
    """Return what each precision takes, in milliseconds, what was predicted, and the ratio of the two."""
    engine = create_native(1)
    timings = measure_timings(master, engine, seconds)
    space = Space(master, master.widths)
    rng = np.random.default_rng(0)
    plans: dict[str, Plan] = dict(master.precisions)
    for i in range(drawn):
        plans[f"random-{i}"] = space.plan(tuple(int(bits) for bits in rng.choice(space.open, len(space.units))))
    rows = {}
    samples = whole_calls([engine.derive(master, plan) for plan in plans.values()], seconds)
    for (name, plan), times_ms in zip(plans.items(), samples, strict=True):
        predicted_ms = timings.predict_ms(plan)
        least_ms = float(np.median(np.reshape(times_ms, (-1, ROUNDS)), axis=1).min())
        rows[name] = {
            "ms": least_ms,
            "predicted_ms": predicted_ms,
            "ratio": predicted_ms / least_ms,
            **summary(times_ms),
        }
    ratios = [row["ratio"] for row in rows.values()]
    return {
        "instruction_set": timings.instruction_set,
        "least_ratio": min(ratios),
        "largest_ratio": max(ratios),
        "precisions": rows,
    }


def whole_calls(models: Sequence[NativeModel], seconds: float) -> list[list[float]]:
    """Return milliseconds of calls of each model, which take turns of :data:`ROUNDS` calls after one that warms up."""
    q_image = random_picture(models[0].master)
    samples: list[list[float]] = [[] for _ in models]
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(samples[0]) < MIN_PASSES * ROUNDS:
        for model, times_ms in zip(models, samples, strict=True):
            model.run(q_image)  # what the one before left in the caches is none of this one's
            for _ in range(ROUNDS):
                started = time.perf_counter()
                model.run(q_image)
                times_ms.append(1e3 * (time.perf_counter() - started))
    return samples


if __name__ == "__main__":
    main()
