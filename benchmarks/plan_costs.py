"""How well the costs that a search can minimise rank plans that were really run.

    python -m benchmarks.plan_costs --data FOLDER [--model NAME] [--plans 60] [--validate 2500] [--json FILE]

Plans are drawn at random, in equal parts from widths {8, 6, 4, 2}, {4, 2} and all, fitted with a batch norm and
measured as a search does. Beside the costs of the search: ``one_layer``, the mean square of what the output moves by
when that layer alone runs at the width and all others at 8 bits.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.measure import write_report
from bitgear.bits import MASTER_BITS, LayerBits, Plan
from bitgear.checkpoint import read_master
from bitgear.engines import Engine, create_engine
from bitgear.evaluate import evaluate_master
from bitgear.models import find_master
from bitgear.search.command import calibration_count
from bitgear.search.costs import Cost, cost_table
from bitgear.search.pictures import Pictures, read_pictures
from bitgear.search.space import Choice, Space, Table
from bitgear.search.statistics import Statistics
from bitgear.search.trials import MAIN_METRIC, alone

WIDTHS = {"8,6,4,2": (8, 6, 4, 2), "4,2": (4, 2), "all": (8, 7, 6, 5, 4, 3, 2)}


def main() -> None:
    """Run the measurement and print rank correlations."""
    from scipy.stats import spearmanr

    parser = argparse.ArgumentParser()
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
    tables = {"weights": cost_table(space, Cost.WEIGHTS), "one_layer": one_layer(space, engine, pictures)}
    if master.sensitivities:
        tables["hessian"] = cost_table(space, Cost.HESSIAN)
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
        metrics = evaluate_master(master, engine, pictures.validation, [plan])[plan]
        scores.append(metrics[MAIN_METRIC[master.task]])
    return scores


def one_layer(space: Space, engine: Engine, pictures: Pictures) -> Table:
    """Return the mean square of what the output moves by, relative to its variance, for each unit at each width."""
    codes = pictures.calibration
    at_rest = engine.derive(space.master, MASTER_BITS).run(codes)
    full = LayerBits(MASTER_BITS, MASTER_BITS)
    rows = []
    for unit in tqdm(space.units, desc="one layer", leave=False):
        row = []
        for bits in space.widths:
            plan = Plan(full, tuple((name, LayerBits(bits, bits)) for name in unit.names))
            moved = engine.derive(space.master, plan).run(codes) - at_rest
            row.append(float(np.square(moved).mean() / at_rest.var()))
        rows.append(row)
    return np.array(rows)


if __name__ == "__main__":
    main()
