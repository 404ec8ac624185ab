"""How long each layer takes on this device at each width, and what a plan takes by that.

Times are those of the native engine's steps, with single pictures. The prediction is a sum: a layer's width changes how
its own sums are computed, while its epilogue writes one byte for each number whatever its readers' widths are.
"""

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitgear.bits import Plan
from bitgear.checkpoint import Master
from bitgear.errors import SearchError
from bitgear.search.space import Space, Table

if TYPE_CHECKING:  # the extension may be missing, which :func:`~bitgear.engines.registry.create_native` tells
    from bitgear.engines.native import NativeEngine, NativeModel

ROUNDS = 5
"""Calls to a median; what a step takes is the least of many such medians, for a busy machine only adds to them."""
MIN_PASSES = 10
FAR_OFF = 0.15
"""By no more than this part of what is measured is a prediction off on an idle machine."""


@dataclass(frozen=True)
class Timings:
    """Milliseconds of one picture: ``layers`` by name and width, ``other_ms`` for all that has no width of its own."""

    model: str
    instruction_set: str
    threads: int
    other_ms: float
    layers: Mapping[str, Mapping[int, float]]

    def table(self, space: Space) -> Table:
        """Return the milliseconds of every unit at every width.

        Raises :class:`~bitgear.errors.SearchError` if they are those of another network.
        """
        try:
            rows = [
                [sum(self.layers[name][bits] for name in unit.names) for bits in space.widths] for unit in space.units
            ]
        except KeyError as error:
            raise SearchError(
                f"the timings of model {self.model!r} have no entry {error} that model {space.master.name!r} needs; "
                "measure that model: bitgear profile"
            ) from error
        return np.array(rows)

    def check_master(self, master: Master) -> None:
        """Raise :class:`~bitgear.errors.SearchError` if they are those of another master: by name, layers or widths."""
        if self.model != master.name:
            raise SearchError(
                f"the timings are of model {self.model!r}, not of {master.name!r}; measure that model: bitgear profile"
            )
        layers = {conv.name for conv in master.graph.searchable}
        if layers != self.layers.keys():
            raise SearchError(
                f"the timings of model {self.model!r} are of another network: layer "
                f"{min(layers ^ self.layers.keys())!r} is missing or too many; measure this one: bitgear profile"
            )
        for name, by_width in self.layers.items():
            missing = [bits for bits in master.widths if bits not in by_width]
            if missing:
                raise SearchError(
                    f"the timings of model {self.model!r} lack {missing[0]} bits of layer {name!r}, which the master "
                    "has; measure it again: bitgear profile"
                )

    def measured_otherwise(self, engine: "NativeEngine") -> list[str]:
        """Return a line for each condition that was another when they were measured than it is for an engine."""
        conditions = {
            "threads": (self.threads, engine.threads),
            "instruction set": (self.instruction_set, engine.instruction_set),
        }
        return [
            f"the timings were measured with {name} {then}, plans are timed with {now}; measure again: bitgear profile"
            for name, (then, now) in conditions.items()
            if then != now
        ]

    def far_off(self, measured_ms: Mapping[Plan, float]) -> str | None:
        """Return a line on the plan whose time is furthest from what is predicted; None if that is near enough."""
        off = {plan: abs(self.predict_ms(plan) / ms - 1) for plan, ms in measured_ms.items()}
        worst = max(off, key=lambda plan: off[plan])
        if off[worst] <= FAR_OFF:
            return None
        return (
            f"{worst} bits everywhere were predicted to take {self.predict_ms(worst):.4g} ms and measured to take "
            f"{measured_ms[worst]:.4g}, more than {FAR_OFF:.0%} apart: the machine had other work, or the timings are "
            "of another; run again on an idle machine, with timings measured anew"
        )

    def predict_ms(self, plan: Plan) -> float:
        """Return what a plan takes."""
        return self.other_ms + sum(by_width[plan.of(name).weight_bits] for name, by_width in self.layers.items())

    def to_json(self) -> dict[str, Any]:
        """Return the timings as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Timings":
        """Return the timings of a JSON object; raise :class:`~bitgear.errors.SearchError` if it holds none."""
        try:
            layers = {
                str(name): {int(bits): float(ms) for bits, ms in by_width.items()}
                for name, by_width in value["layers"].items()
            }
            other_ms = float(value["other_ms"])
            for ms in (other_ms, *(ms for by_width in layers.values() for ms in by_width.values())):
                if not 0 <= ms < math.inf:
                    raise ValueError(f"{ms} is no number of milliseconds")
            return cls(str(value["model"]), str(value["instruction_set"]), int(value["threads"]), other_ms, layers)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise SearchError(
                f"timings are not what bitgear profile writes: {type(error).__name__}: {error}"
            ) from error


def measure_timings(
    master: Master, engine: "NativeEngine", seconds: float = 5.0, progress: Callable[[int], object] = lambda _: None
) -> Timings:
    """Return what the layers of a master take, measured for about so many seconds; ``progress`` gets passes done.

    All widths take turns, so that none has the quiet moments for itself.
    """
    models = [engine.derive(master, bits) for bits in master.widths]
    measured = dict(zip(master.widths, step_times(models, seconds, progress), strict=True))
    layers = {
        conv.name: {bits: 1e3 * measured[bits][conv.name] for bits in master.widths} for conv in master.graph.searchable
    }
    others = [sum(took for name, took in steps.items() if name not in layers) for steps in measured.values()]
    return Timings(master.name, engine.instruction_set, engine.threads, 1e3 * float(np.median(others)), layers)


def step_times(
    models: Sequence["NativeModel"], seconds: float, progress: Callable[[int], object] = lambda _: None
) -> list[dict[str, float]]:
    """Return seconds by node for models of one input size, which take turns; ``progress`` gets passes done."""
    q_image = random_picture(models[0].master)
    least: list[dict[str, float]] = [{} for _ in models]
    started, passes = time.perf_counter(), 0
    while passes < MIN_PASSES or time.perf_counter() - started < seconds:
        for model, known in zip(models, least, strict=True):
            for name, took in model.profile(q_image, ROUNDS).items():
                known[name] = min(took, known.get(name, took))
        progress(1)
        passes += 1
    return least


def least_ms(
    models: Sequence["NativeModel"], seconds: float, progress: Callable[[int], object] = lambda _: None
) -> list[float]:
    """Return what models take, the sum of their nodes, in milliseconds for one picture: see :func:`step_times`."""
    return [1e3 * sum(steps.values()) for steps in step_times(models, seconds, progress)]


def random_picture(master: Master) -> NDArray[np.int8]:
    """Return the codes of one picture of noise: what a step takes does not depend on what it computes."""
    shape = (1, 3, master.input.height_px, master.input.width_px)
    return np.random.default_rng(0).integers(-128, 128, shape, dtype=np.int8)


def read_timings(file: Path) -> Timings:
    """Return what ``bitgear profile`` wrote; raise :class:`~bitgear.errors.SearchError` if it is not that."""
    try:
        return Timings.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise SearchError(f"timings {file} cannot be read: {error}; write them with bitgear profile") from error
