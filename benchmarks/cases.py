"""Which runs make a measurement under load: policies, arrivals, objectives and seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import arrivals

ADAPTIVE = ("look-ahead", "slackfit")
CV2S = (1.0, 2.0, 4.0, 8.0)
LOADS = (0.6, 0.9, 1.2, 1.5)
BURSTY_CV2 = 4.0
BAR_LOADS = (0.9, 1.2)
SLO_FACTOR = 5.0
OTHER_SLO_FACTORS = (3.0, 10.0)
RAMP = (0.3, 1.8)
TRACES = {"azure": "traces/azure_llm_2023_conv.csv", "twitter": "traces/twitter_per_second.npz"}
"""Recorded requests by the name of their arrivals, in the folder of data sets."""
TRACE_LOAD = 0.9

_FIXED = "fixed-"


def fixed(width: int | str) -> str:
    """Return the name of the policy that serves nothing but a width."""
    return f"{_FIXED}{width}"


def pinned(policy: str) -> str | None:
    """Return the precision that requests pin under a policy; None if it decides."""
    return policy.removeprefix(_FIXED) if policy.startswith(_FIXED) else None


@dataclass(frozen=True)
class Scene:
    """How requests come in. ``load``: mean rate by the capacity at 8 bits. ``cv2``: of the gaps; None: as recorded."""

    arrivals: str
    load: float
    cv2: float | None = None
    slo_factor: float = SLO_FACTOR

    def described(self, slo_ms: float) -> dict[str, Any]:
        """Return what a row of a report says of it; ``slo_ms``: the objective that its factor comes to."""
        return {**asdict(self), "slo_ms": slo_ms}

    @property
    def name(self) -> str:
        """Short, for files."""
        burstiness = "" if self.cv2 is None else f"-cv{self.cv2:g}"
        return f"{self.arrivals}{burstiness}-load{self.load:g}-slo{self.slo_factor:g}"

    def moments(self, capacity_per_s: float, seconds: float, seed: int, data: Path | None) -> arrivals.Moments:
        """Return when requests are due, seconds from the start: the same for the same seed and capacity.

        ``data``: the folder of data sets, for traces.
        """
        rng = np.random.default_rng(seed)
        rate = self.load * capacity_per_s
        match self.arrivals:
            case "gamma" if self.cv2 is not None:
                return arrivals.gamma(rate, self.cv2, seconds, rng)
            case "ramp" if self.cv2 is not None:
                start, end = (share * capacity_per_s for share in RAMP)
                return arrivals.ramp(start, end, self.cv2, seconds, rng)
            case name if name in TRACES and data is not None:
                return arrivals.read_trace(data / TRACES[name], rate, seconds, rng)
        raise ValueError(f"{self.name}: no such arrivals")


@dataclass(frozen=True)
class Case:
    """One run: a policy, how requests come in, and the seed of that."""

    policy: str
    scene: Scene
    seed: int

    @property
    def name(self) -> str:
        """Unique, for files."""
        return f"{self.scene.name}-{self.policy}-{self.seed}"


def planned(scenes: Sequence[Scene], policies: Sequence[str], seeds: int) -> Iterator[Case]:
    """Yield all runs: the policies of one scene and seed next to one another, in an order drawn anew."""
    rng = np.random.default_rng(0)
    for scene in scenes:
        for seed in range(seeds):
            for index in rng.permutation(len(policies)):
                yield Case(policies[index], scene, seed)


def bar_scenes() -> list[Scene]:
    """Return the scenes that there are bars for."""
    return [Scene("gamma", load, BURSTY_CV2) for load in BAR_LOADS]


def all_scenes(traces: bool) -> list[Scene]:
    """Return the whole matrix: those of the bars, all bursts and loads, a ramp, traces; and other objectives."""
    bursts = [Scene("gamma", load, cv2) for cv2 in CV2S for load in LOADS]
    recorded = [Scene(name, TRACE_LOAD) for name in TRACES] if traces else []
    others = [Scene("gamma", load, BURSTY_CV2, factor) for factor in OTHER_SLO_FACTORS for load in BAR_LOADS]
    return list(dict.fromkeys([*bar_scenes(), Scene("ramp", sum(RAMP) / 2, 1.0), *recorded, *bursts, *others]))
