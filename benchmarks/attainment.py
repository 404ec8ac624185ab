"""What a policy achieved: from what became of every request to a row of the report."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OK, OVERLOADED, EXPIRED = 200, 429, 504
LATE_SHARE = 0.05
"""A client that sends this share of the objective too late, one time in a hundred, is too busy to measure with."""


@dataclass(frozen=True)
class Outcomes:
    """What became of each of N requests of one run.

    ``due_s``: when it was due, from the start. ``lag_ms``: by how much it was sent late. ``latency_ms``: from due to
    answered, NaN for no answer. ``status``: of HTTP, 0 for no answer. ``picture``: which one it sent. ``served``: the
    precision that answered, "" for none. ``right``: how right the answer is, 0..1, NaN if unknown.
    """

    due_s: NDArray[np.float64]
    lag_ms: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    status: NDArray[np.int64]
    picture: NDArray[np.int64]
    served: NDArray[np.str_]
    right: NDArray[np.float64]

    def save(self, path: Path) -> None:
        """Write it as an npz file."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @staticmethod
    def load(path: Path) -> "Outcomes":
        """Read what :meth:`save` wrote."""
        with np.load(path) as f:
            return Outcomes(**{field.name: f[field.name] for field in fields(Outcomes)})

    @staticmethod
    def joined(runs: Sequence["Outcomes"]) -> "Outcomes":
        """Return the requests of all runs."""
        return Outcomes(
            **{field.name: np.concatenate([getattr(run, field.name) for run in runs]) for field in fields(Outcomes)}
        )

    def attained(self, slo_ms: float) -> NDArray[np.bool_]:
        """Return which requests were answered in time. No answer is none in time, whatever the reason."""
        return (self.status == OK) & (np.nan_to_num(self.latency_ms, nan=math.inf) <= slo_ms)


def score(outcomes: Outcomes, slo_ms: float, accuracy: Mapping[str, float], seconds: float) -> dict[str, Any]:
    """Return the measures of ``seconds`` of load.

    Over all submitted: ``attainment``, with a 95 % interval as if requests were independent, and
    ``effective_accuracy``, in which a miss is wrong. Over those in time: ``served_accuracy``, the mean of what the
    precisions have by their profile (``accuracy``, 0..1). The same two on real labels, None where there are none.
    Percentiles are of all answers with status 200, ``share`` too; ``goodput`` counts those in time by second.
    """
    count = len(outcomes.status)
    answered = outcomes.status == OK
    attained = outcomes.attained(slo_ms)
    hits = int(attained.sum())
    profiled = np.array([accuracy[name] for name in outcomes.served[attained]])
    right = outcomes.right[attained]
    labelled = bool(hits) and not np.isnan(right).any()
    latency_ms = outcomes.latency_ms[answered]
    p50, p95, p99 = np.percentile(latency_ms, [50, 95, 99]) if answered.any() else [math.nan] * 3
    lag_p99_ms = float(np.percentile(outcomes.lag_ms, 99))
    names, counts = np.unique(outcomes.served[answered], return_counts=True)
    return {
        "submitted": count,
        "attainment": hits / count,
        "attainment_95": wilson(hits, count),
        "served_accuracy": float(profiled.mean()) if hits else None,
        "effective_accuracy": float(profiled.sum() / count),
        "served_right": float(right.mean()) if labelled else None,
        "effective_right": float(right.sum() / count) if labelled else None,
        "p50_ms": _finite(p50),
        "p95_ms": _finite(p95),
        "p99_ms": _finite(p99),
        "goodput_per_s": hits / seconds,
        "late": int(answered.sum()) - hits,
        "overloaded": int((outcomes.status == OVERLOADED).sum()),
        "expired": int((outcomes.status == EXPIRED).sum()),
        "failed": int((~np.isin(outcomes.status, (OK, OVERLOADED, EXPIRED))).sum()),
        "share": {str(name): int(n) / int(answered.sum()) for name, n in zip(names, counts, strict=True)},
        "client_lag_p99_ms": lag_p99_ms,
        "client_lag_max_ms": float(outcomes.lag_ms.max()),
        "client_too_busy": lag_p99_ms > LATE_SHARE * slo_ms,
    }


def ceiling(due_s: NDArray[np.float64], per_s: float, slo_ms: float) -> float:
    """Return the share in time of a server that answers ``per_s``, one by one, and never begins what would be late.

    For equal work and equal patience no order is better than first come, first served.
    """
    service_s, free_s, hits = 1 / per_s, 0.0, 0
    for at_s in due_s.tolist():
        done_s = max(at_s, free_s) + service_s
        if done_s <= at_s + slo_ms / 1e3:
            free_s = done_s
            hits += 1
    return hits / max(1, len(due_s))


def wilson(hits: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share by Wilson's formula, which holds near 0 and 1 too.

    >>> [round(bound, 3) for bound in wilson(99, 100)]
    [0.946, 0.998]
    """
    z = 1.959964
    share, spread = hits / count, z * z / count
    centre = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / count + spread / count / 4)
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def outstanding(outcomes: Outcomes, at_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return how many requests were due and not yet done at each time; one without an answer counts as done at once."""
    done_s = outcomes.due_s + np.nan_to_num(outcomes.latency_ms, nan=0.0) / 1e3
    due, done = np.searchsorted(outcomes.due_s, at_s, "right"), np.searchsorted(np.sort(done_s), at_s, "right")
    return np.asarray(due - done, np.int64)
