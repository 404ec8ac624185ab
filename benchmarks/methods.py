"""What the integer programme and evolution find in as many trials, by cost and mean width.

    python -m benchmarks.methods --data FOLDER [--model NAME] [--trials 24] [--widths 3 4 5] [--seeds 1 2] [--json FILE]

Of a classifier. Both have the widths everywhere among their trials. These are as in a search, each with a batch norm
fitted to it, but judged by how far the output is from that at 8 bits (Kullback-Leibler divergence, nats) on altered
training pictures, which tells plans apart better than top-1 does. The best of a method's trials by one half of the
pictures is told by the other half.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.measure import command_line, write_report
from bitgear.bits import MASTER_BITS
from bitgear.checkpoint import read_master
from bitgear.engines import Engine, create_engine
from bitgear.evaluate import read_data
from bitgear.models import find_master
from bitgear.search.command import calibration_count
from bitgear.search.costs import measured_costs, weight_costs
from bitgear.search.evolution import best, evolve
from bitgear.search.programme import Limit, candidates
from bitgear.search.run import SEED_SHARE
from bitgear.search.space import Choice, Space
from bitgear.search.statistics import Statistics
from bitgear.search.trials import alone
from bitgear.tasks.datasets import LabelledImages
from trainer.data.images import altered

PICTURES = 4000
BATCH_IMAGES = 100


@dataclass(frozen=True)
class Trial:
    """A choice, its mean width, and what it reaches: on the pictures to choose by, and on those that tell.

    ``score``: the divergence from 8 bits, negative; ``told`` and ``top1``: divergence and accuracy (0..1) on others.
    """

    choice: Choice
    use: float
    score: float
    told: float
    top1: float


def main() -> None:
    """Run both methods and print what they find."""
    parser = command_line(__doc__)
    parser.add_argument("--model", default="resnet20-cifar10")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--widths", type=float, nargs="+", default=[3.0, 4.0, 5.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    master, engine = read_master(find_master(arguments.model)), create_engine("native", 1)
    trained, space = read_data(master, arguments.data, "train"), Space(master, master.widths)
    if not isinstance(trained, LabelledImages):
        parser.error(f"{arguments.model} is no classifier")
    order = np.random.default_rng(1).permutation(len(trained))
    calibration, shown = np.split(order[: calibration_count(master) + PICTURES], [calibration_count(master)])
    codes = torch.from_numpy(master.input.encode(trained.images[shown]))
    views = altered(codes, torch.Generator().manual_seed(1)).contiguous().numpy()
    q_images = master.input.encode(trained.images[calibration])
    judge = judged_by(space, engine, Statistics(master, engine, q_images), views, trained.labels[shown])
    costs = {"weights": weight_costs(space), "measured": measured_costs(space, engine, q_images)}
    bar = tqdm(total=len(arguments.widths) * len(costs) * (1 + len(arguments.seeds)) * arguments.trials, leave=False)
    rows = []
    for width in arguments.widths:
        limit = Limit(space.mean_widths, width)
        uniform = [space.uniform(bits) for bits in space.open if bits <= width]
        for cost, table in costs.items():

            def run(choice: Choice) -> Trial:
                bar.update()
                return judge(choice)

            ranked = candidates(space, table, [limit], arguments.trials)
            own = list(dict.fromkeys([*uniform, *ranked]))[: arguments.trials]  # evolution begins with the widths too
            rows.append(row_of("programme", cost, width, None, [run(choice) for choice in own]))
            for seed in arguments.seeds:
                fits = lambda choice, limit=limit: space.total(limit.table, choice) <= limit.most + 1e-9  # noqa: E731
                seeds = list(dict.fromkeys([*uniform, *ranked[: arguments.trials // SEED_SHARE]]))
                rng = np.random.default_rng(seed)
                found = evolve(space, seeds, run, arguments.trials, fits, best, rng, fill=True)
                rows.append(row_of("evolution", cost, width, seed, [judge(choice) for choice in found]))
    bar.close()
    for row in rows:
        print(
            f"{row['mean_width']:g} bits, {row['cost']:8} {row['method']:10} {row['divergence']:.4f} {row['top1']:.2%}"
        )
    widths = {str(bits): asdict(judge(space.uniform(bits))) for bits in space.widths}
    report = {"model": master.name, "trials": arguments.trials, "pictures": PICTURES, "uniform": widths, "rows": rows}
    print(f"wrote {write_report('methods', report, arguments.json)}")


def judged_by(
    space: Space, engine: Engine, statistics: Statistics, views: NDArray[np.int8], labels: NDArray[np.int64]
) -> Callable[[Choice], Trial]:
    """Return what runs a choice, once."""
    known: dict[Choice, Trial] = {}
    half = len(views) // 2

    def outputs(choice: Choice) -> NDArray[np.float64]:
        plan = space.plan(choice)
        norms = statistics.fit(plan) if plan.layers else None
        model = engine.derive(alone(space.master, plan, norms), plan)
        starts = range(0, len(views), BATCH_IMAGES)
        logits = np.concatenate([model.run(views[start : start + BATCH_IMAGES]) for start in starts])
        return F.log_softmax(torch.from_numpy(logits).double(), 1).numpy()

    taught = outputs(space.uniform(MASTER_BITS))

    def judge(choice: Choice) -> Trial:
        if choice not in known:
            made = outputs(choice)
            far = (np.exp(taught) * (taught - made)).sum(axis=1)
            hits = made.argmax(axis=1) == labels
            known[choice] = Trial(
                choice, space.mean_width(choice), -float(far[:half].mean()), float(far[half:].mean()),
                float(hits[half:].mean()),
            )  # fmt: skip
        return known[choice]

    return judge


def row_of(method: str, cost: str, width: float, seed: int | None, trials: list[Trial]) -> dict[str, object]:
    """Return what a method found: the best trial by the pictures to choose by."""
    chosen = max(trials, key=lambda trial: trial.score)
    return {
        "method": method, "cost": cost, "mean_width": width, "seed": seed, "trials": len(trials),
        "divergence": chosen.told, "top1": chosen.top1, "choice": list(chosen.choice),
    }  # fmt: skip


if __name__ == "__main__":
    main()
