"""What a search found, for scripts and for people: a JSON object, a page, and three plots."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bitgear.bits import LayerBits
from bitgear.errors import of_extra
from bitgear.evaluate import Measured
from bitgear.files import write_atomically, write_json
from bitgear.search.grid import draw_widths
from bitgear.search.run import Found, Result
from bitgear.search.space import Choice
from bitgear.search.trials import Trial
from bitgear.tasks.metrics import MAIN_METRIC, SHOWN

_WIDTHS, _TRIALS, _PLANS = "#1b3a6b", "#b9c4d0", "#b8323c"


def as_json(result: Result) -> dict[str, Any]:
    """Return everything as a JSON object: milliseconds of one picture, accuracy in 0..1, sizes in bytes."""
    space, options = result.space, result.options
    return {
        "model": result.master.name,
        "metric": MAIN_METRIC[result.master.task],
        "method": options.method.value,
        "cost": options.cost.value,
        "widths": list(space.open),
        "goals": [str(goal) for goal in options.goals],
        "pictures": {
            "calibration": len(result.pictures.calibration),
            "validation": len(result.pictures.validation),
            "validation_split": result.pictures.split,
        },
        "instruction_set": result.timings.instruction_set,
        "threads": result.timings.threads,
        "random_plans_by_batch_norm": result.probes,
        "seconds": result.seconds,
        "uniform": {
            str(trial.plan): {
                **_reached(result, trial),
                "test": dict(result.master.metrics(str(trial.plan))),
            }
            for trial in result.uniform
        },
        "plans": {each.name: _plan(result, each) for each in result.found},
        "not_comparable": None if result.apart is None else asdict(result.apart),
        "not_found": result.told,
        "trials": [_tried(result, trial) for trial in result.trials],
        "layers": {
            name: {
                "trace": result.master.sensitivities.get(name),
                "ms": {str(bits): ms for bits, ms in result.timings.layers[name].items()},
            }
            for name in space.names
        },
    }


def _reached(result: Result, trial: Trial) -> dict[str, Any]:
    """Return what :func:`_tried` does of a choice whose time was measured, and that time."""
    return {"latency_ms": trial.use, **_tried(result, trial)}


def _tried(result: Result, trial: Trial) -> dict[str, Any]:
    return {
        "mean_width": result.space.mean_width(trial.choice),
        "predicted_ms": result.timings.predict_ms(trial.plan),
        "cost": result.space.total(result.costs, trial.choice),
        "score": trial.score,
    }


def _plan(result: Result, found: Found) -> dict[str, Any]:
    space, trial = result.space, found.trial
    weights = [unit.weights for unit in space.units]
    return {
        **_reached(result, trial),
        "reason": found.reason,
        "layers": layer_bits(result, trial.choice),
        "mean_width_of_weights": sum(n * bits for n, bits in zip(weights, trial.choice, strict=True)) / sum(weights),
        "bytes": space.fixed_bytes + space.total(space.weight_bytes, trial.choice),
        "bit_operations": space.fixed_bit_operations + space.total(space.bit_operations, trial.choice),
        "validation": trial.measured.to_json(),
        "validation_with_rows_of_widths": found.rows.to_json(),
        "test": found.test.to_json(),
    }


def layer_bits(result: Result, choice: Choice) -> dict[str, int]:
    """Return the width of every layer that was chosen, by name."""
    return {
        name: bits for unit, bits in zip(result.space.units, choice, strict=True) for name in unit.names
    }  # fmt: skip


def check_plots() -> None:
    """Raise :class:`~bitgear.errors.EngineUnavailable` if matplotlib, which draws the plots, cannot be imported."""
    with of_extra("drawing a report", "search"):
        import matplotlib.figure  # noqa: F401


def write_report(result: Result, folder: Path) -> None:
    """Write ``plans.json``, ``plans.md`` and the plots, which need matplotlib, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    report = as_json(result)
    draw(report, folder)
    write_json(folder / "plans.json", report, indent=1)
    write_atomically(folder / "plans.md", _page(result).encode())


def _page(result: Result) -> str:
    metric = MAIN_METRIC[result.master.task]
    shown = SHOWN[metric]
    validation, options = result.pictures, result.options
    lines = [
        f"# Plans of {result.master.name}",
        "",
        f"Method {options.method.value}, cost {options.cost.value}, widths {', '.join(map(str, result.space.open))}; "
        f"{len(result.trials)} plans tried. {_batch_norm(result)}; "
        f"plans chosen by {len(validation.validation)} pictures ({validation.split}); the test pictures chose nothing. "
        f"Milliseconds of one picture, {result.timings.instruction_set}, threads {result.timings.threads}.",
        "",
        f"| | mean width | ms | predicted | {shown}, choosing | with the widths' batch norm | {shown}, test |",
        "|---|---|---|---|---|---|---|",
    ]
    rows: list[tuple[float, str]] = []
    for trial in result.uniform:
        test = result.master.metrics(str(trial.plan))
        rows.append((trial.use, _row(result, f"{trial.plan} bit", trial, None, test.get(metric))))
    for each in result.found:
        name = f"**{each.name}**"
        rows.append((each.trial.use, _row(result, name, each.trial, each.rows, each.test.metrics[metric])))
    lines += [text for _, text in sorted(rows, reverse=True)]
    lines += ["", *(f"{text}." for text in result.told), ""]
    if result.apart is not None:
        lines += [f"Not comparable: {result.apart}", ""]
    lines += ["| layer | " + " | ".join(each.name for each in result.found) + " |"]
    lines += ["|---|" + "---|" * len(result.found)]
    widths = [layer_bits(result, each.trial.choice) for each in result.found]
    lines += [f"| {name} | " + " | ".join(str(of[name]) for of in widths) + " |" for name in result.space.names]
    lines += [
        "",
        "![accuracy against time](plans_latency.png)",
        "",
        "![accuracy against mean width](plans_width.png)",
        "",
        "![widths by layer](plans_layers.png)",
        "",
    ]
    return "\n".join(lines)


def _batch_norm(result: Result) -> str:
    fitted, rows = (f"{result.probes[way]:.2%}" for way in ("fitted", "widths"))
    if result.probes["fitted"] > result.probes["widths"]:
        count = len(result.pictures.calibration)
        return f"Batch norm fitted on {count} training pictures (random plans: {fitted}, without {rows})"
    return f"Batch norm of the widths (random plans: {rows}, fitted {fitted})"


def _row(result: Result, name: str, trial: Trial, rows: Measured | None, test: float | None) -> str:
    metric = MAIN_METRIC[result.master.task]
    cells = [
        name,
        f"{result.space.mean_width(trial.choice):.2f}",
        f"{trial.use:.4g}",
        f"{result.timings.predict_ms(trial.plan):.4g}",
        f"{trial.score:.2%}",
        "" if rows is None else f"{rows.metrics[metric]:.2%}",
        "" if test is None else f"{test:.2%}",
    ]
    return "| " + " | ".join(cells) + " |"


def draw(report: Mapping[str, Any], folder: Path) -> None:
    """Draw the plots of a report, as :func:`as_json` returns it, into a folder."""
    from matplotlib.figure import Figure

    def page(name: str, height: float, draw_on: Callable[[Sequence[Any]], None], rows: int = 1) -> None:
        figure = Figure(figsize=(7, height), layout="constrained")
        draw_on(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0].tolist())
        figure.savefig(folder / name, dpi=130)

    # Plans that were only tried have a prediction alone: all stand at theirs, for a measured time is another.
    page("plans_latency.png", 4, lambda axes: _scatter(report, axes[0], "predicted_ms", "ms of one picture, predicted"))
    page("plans_width.png", 4, lambda axes: _scatter(report, axes[0], "mean_width", "mean width, bits"))
    traced, plans = _traced(report), len(report["plans"])
    rows = traced + bool(plans)
    page("plans_layers.png", 1.5 + 3 * traced + 0.4 * plans, lambda axes: _layers(report, axes), max(1, rows))


def _traced(report: Mapping[str, Any]) -> bool:
    return all(layer["trace"] is not None for layer in report["layers"].values())


def _scatter(report: Mapping[str, Any], axes: Any, x: str, label: str) -> None:
    def points(rows: Iterable[Mapping[str, Any]]) -> tuple[list[float], list[float]]:
        of = list(rows)
        return [row[x] for row in of], [100 * row["score"] for row in of]

    axes.plot(*points(report["trials"]), ".", color=_TRIALS, label="plans tried")
    axes.plot(*points(report["uniform"].values()), "o-", color=_WIDTHS, label="one width everywhere")
    for name, row in report["uniform"].items():
        axes.annotate(name, (row[x], 100 * row["score"]), (4, -10), textcoords="offset points", fontsize=8)
    axes.plot(*points(report["plans"].values()), "D", color=_PLANS, label="plans kept")
    axes.set_xlabel(label)
    axes.set_ylabel(f"{SHOWN[report['metric']]} (%), choosing")
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.12), ncols=3)
    axes.grid(alpha=0.3)


def _layers(report: Mapping[str, Any], panels: Sequence[Any]) -> None:
    layers: Mapping[str, Any] = report["layers"]
    if _traced(report):
        panels[0].bar(range(len(layers)), [max(layer["trace"], 0) for layer in layers.values()], color=_WIDTHS)
        panels[0].set_ylabel("average trace")
        panels[0].set_yscale("log")
    if report["plans"]:
        plans = {
            name: {layer: LayerBits(bits, bits) for layer, bits in plan["layers"].items()}
            for name, plan in report["plans"].items()
        }
        draw_widths(panels[-1], list(layers), plans)
    panels[-1].set_xticks(range(len(layers)), list(layers), rotation=90, fontsize=7)
