"""How well the costs that a search can minimise rank plans that were really run.

    python -m benchmarks.plan_costs --data FOLDER [--model NAME] [--plans 60] [--validate 2500] [--json FILE]

Plans are drawn at random, in equal parts from widths {8, 6, 4, 2}, {4, 2} and all, fitted with a batch norm and
measured as a search does. Beside the costs of the search: the mean width.
"""

from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.measure import command_line, write_report
from bitgear.checkpoint import read_master
from bitgear.engines import Engine, create_engine
from bitgear.evaluate import evaluate_master
from bitgear.models import find_master
from bitgear.search.command import calibration_count
from bitgear.search.costs import hessian_costs, measured_costs, weight_costs
from bitgear.search.pictures import Pictures, read_pictures
from bitgear.search.space import Choice, Space
from bitgear.search.statistics import Statistics
from bitgear.search.trials import alone
from bitgear.tasks.metrics import MAIN_METRIC

WIDTHS = {"8,6,4,2": (8, 6, 4, 2), "4,2": (4, 2), "all": (8, 7, 6, 5, 4, 3, 2)}


def main() -> None:
    """Run the measurement and print rank correlations."""
    from scipy.stats import spearmanr

    parser = command_line(__doc__)
    parser.add_argument("--model", default="resnet20-cifar10")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--plans", type=int, default=60)
    parser.add_argument("--validate", type=int, default=2500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    master = read_master(find_master(arguments.model))
    engine, rng = create_engine("auto", arguments.threads), np.random.default_rng(1)
    pictures = read_pictures(
        master,
        arguments.data,
        split=None,
        calibration=calibration_count(master),
        validation=arguments.validate,
        rng=rng,
    )
    space = Space(master, master.widths)
    tables = {"weights": weight_costs(space), "measured": measured_costs(space, engine, pictures.calibration)}
    if master.sensitivities:
        tables["hessian"] = hessian_costs(space)
    drawn = [draw(space, widths, rng) for widths in WIDTHS.values() for _ in range(arguments.plans // len(WIDTHS))]
    scores = measured(space, engine, pictures, drawn)
    tables["mean_width"] = -space.mean_widths
    found = {}
    for name, table in tables.items():
        costs = [space.total(table, choice) for choice in drawn]
        found[name] = -float(spearmanr(costs, scores).statistic)
        print(f"{name:12} {found[name]:6.3f}")
    report = {
        "model": master.name,
        "plans": len(drawn),
        "validation": len(pictures.validation),
        "split": pictures.split,
        "rank_correlation": found,
    }
    print(f"wrote {write_report('plan-costs', report, arguments.json)}")


def draw(space: Space, widths: tuple[int, ...], rng: np.random.Generator) -> Choice:
    """Return a choice of random widths."""
    return tuple(int(bits) for bits in rng.choice(widths, len(space.units)))


def measured(space: Space, engine: Engine, pictures: Pictures, drawn: list[Choice]) -> list[float]:
    """Return the main metric of choices, each with a batch norm fitted to it."""
    statistics = Statistics(space.master, engine, pictures.calibration)
    scores = []
    for choice in tqdm(drawn, desc="plans", leave=False):
        plan = space.plan(choice)
        master = alone(space.master, plan, statistics.fit(plan))
        reached = evaluate_master(master, engine, pictures.validation, [plan])[plan]
        scores.append(reached.metrics[MAIN_METRIC[master.task]])
    return scores


if __name__ == "__main__":
    main()
