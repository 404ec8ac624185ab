"""By which schedule epochs were trained: a configuration may say another since, and changes nothing that is past."""

import sys
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from tqdm import tqdm

from bitgear.tasks.metrics import SHOWN
from trainer.config import Fp32Config, HasbConfig, RunConfig, TrainConfig, WithPlanConfig
from trainer.state import History

SCHEDULE = "schedule"
"""Entry of a row of the history: ``epochs`` and ``lr`` of the section by which the epoch was trained."""

Row = Mapping[str, Any]
Section = Fp32Config | TrainConfig | HasbConfig | WithPlanConfig


def schedule_of(section: Section) -> dict[str, Any]:
    """Return what a row says of the section that it is trained by."""
    return {"epochs": section.epochs, "lr": section.lr}


def stretches(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return what epochs in a row were trained by: how many (``epochs``), of how many (``of``), from which ``lr`` down.

    Epochs of runs that did not record their schedule yet are left out.
    """
    known = [row[SCHEDULE] for row in rows if SCHEDULE in row]
    return [
        {"epochs": len([*group]), "of": schedule["epochs"], "lr": schedule["lr"]} for schedule, group in groupby(known)
    ]


def cut_short(rows: Sequence[Row]) -> bool:
    """Return whether training ended before its last schedule did."""
    return bool(rows) and len(rows) < rows[-1].get(SCHEDULE, {"epochs": 0})["epochs"]


def trained_recipe(config: RunConfig, history: History) -> dict[str, Any]:
    """Return a configuration as json has it, with epochs and rates that were trained instead of those that it gives.

    Where that is not one whole schedule, ``trained`` of the section has the :func:`stretches`.
    """
    recipe: dict[str, Any] = config.model_dump(mode="json")
    for name, _, rows in _sections(config, history):
        recipe[name] |= _trained(rows)
        parts = stretches(rows)
        if len(parts) > 1 or cut_short(rows):
            recipe[name]["trained"] = parts
    return recipe


def warn_of_past(name: str, section: Section, rows: Sequence[Row]) -> None:
    """Say on standard error which entries of a section whose training has ended have no effect, if any have none.

    Where no epoch was trained, as on from masters, there is nothing that they could have differed from.
    """
    if not rows:
        return
    vain = {key: was for key, was in _trained(rows).items() if was != getattr(section, key)}
    if vain:
        given = " and ".join(f"{name}.{key} = {getattr(section, key)}" for key in vain)
        held = " and ".join(f"{key} {was}" for key, was in vain.items())
        tqdm.write(
            f"warning: {given}: no effect on what is trained already, with {held}; the master says the latter",
            file=sys.stderr,
        )


def told(what: str, row: Row, metric: str) -> str:
    """Return an epoch in one line: its loss, the task's ``metric`` in per cent where it was taken, and seconds."""
    parts = [f"loss {_figures(row['loss'], '{:.4f}')}"]
    if metric in row:
        parts.append(told_metric(metric, row[metric]))
    parts.append(f"{row['seconds']:.0f} s")
    return f"{what}: {'; '.join(parts)}"


def told_metric(metric: str, reached: float | Mapping[str, float]) -> str:
    """Return a metric, 0..1, of one network or by precision, in words and per cent."""
    return f"{SHOWN[metric]} {_figures(reached, '{:.2%}')}"


def _figures(values: float | Mapping[str, float], form: str) -> str:
    """Return a figure, or several with whose each is: precisions, or kinds of steps."""
    if isinstance(values, Mapping):
        return ", ".join(f"{form.format(value)} ({name})" for name, value in values.items())
    return form.format(values)


def _sections(config: RunConfig, history: History) -> list[tuple[str, Section, Sequence[Row]]]:
    given: list[tuple[str, Section | None, Sequence[Row]]] = [
        ("fp32", config.fp32, history.fp32_epochs), ("train", config.train, history.epochs),
        ("hasb", config.hasb, history.hasb_epochs), ("with_plan", config.with_plan, history.plan_epochs),
    ]  # fmt: skip
    return [(name, section, rows) for name, section, rows in given if section is not None]


def _trained(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how many epochs there were and, where it is known, the rate that they ended by."""
    parts = stretches(rows)
    return {"epochs": len(rows), **({"lr": parts[-1]["lr"]} if parts else {})}
