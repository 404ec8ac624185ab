"""Durations as a server's histograms tell them."""

from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Histogram:
    """``buckets``: upper bound in seconds, ascending, and how many are no longer than that. ``sum_s`` of them all."""

    buckets: tuple[tuple[float, float], ...] = ()
    sum_s: float = 0.0

    @staticmethod
    def of(exposition: str, name: str) -> "Histogram":
        """Return the histogram of that name, over all labels, from a page in Prometheus's text format."""
        buckets: dict[float, float] = {}
        sum_s = 0.0
        for family in text_string_to_metric_families(exposition):
            for sample in family.samples if family.name == name else ():
                if sample.name == f"{name}_bucket":
                    bound_s = float(sample.labels["le"])
                    buckets[bound_s] = buckets.get(bound_s, 0.0) + sample.value
                elif sample.name == f"{name}_sum":
                    sum_s += sample.value
        return Histogram(tuple(sorted(buckets.items())), sum_s)

    @property
    def count(self) -> float:
        """How many there are."""
        return self.buckets[-1][1] if self.buckets else 0.0

    def __add__(self, other: "Histogram") -> "Histogram":
        return self._combined(other, 1)

    def __sub__(self, other: "Histogram") -> "Histogram":
        return self._combined(other, -1)

    def _combined(self, other: "Histogram", sign: int) -> "Histogram":
        theirs = dict(other.buckets)
        bounds_s = sorted({*theirs, *dict(self.buckets)})
        ours = dict(self.buckets)
        buckets = tuple((bound_s, ours.get(bound_s, 0.0) + sign * theirs.get(bound_s, 0.0)) for bound_s in bounds_s)
        return Histogram(buckets, self.sum_s + sign * other.sum_s)

    @property
    def mean_s(self) -> float | None:
        """The mean; None of none."""
        return self.sum_s / self.count if self.count else None

    def quantile_s(self, share: float) -> float | None:
        """Return the upper bound of the bucket in which a quantile lies; None of none, infinity beyond all bounds."""
        return (
            next((bound_s for bound_s, count in self.buckets if count >= share * self.count), None)
            if self.count
            else None
        )
