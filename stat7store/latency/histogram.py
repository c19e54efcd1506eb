"""Durations counted in HDR histograms: three significant digits from a nanosecond to an hour."""

from __future__ import annotations

from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]

from stat7store.latency.report import Summary

_LONGEST_NS = 3_600_000_000_000
_DIGITS = 3
_CURVE = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99, 100.0)


class Durations:
    """Durations of one kind, in nanoseconds. Count, mean and maximum are exact.

    A negative duration (two clocks' readings may overlap) counts as 0 in the percentiles and as it
    is in the mean, so that the means of all stages add up to that of the total.
    """

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, _LONGEST_NS, _DIGITS)
        self._sum = 0
        self._max = 0
        self.count = 0

    def add(self, duration_ns: int) -> None:
        """Count one."""
        self.count += 1
        self._sum += duration_ns
        if duration_ns > 0:
            self._max = max(self._max, duration_ns)
            self._histogram.record_value(min(duration_ns, _LONGEST_NS))
        else:
            self._histogram.record_value(0)

    def merge(self, other: Durations) -> None:
        """Count all that another counted."""
        self._histogram.add(other._histogram)
        self._sum += other._sum
        self._max = max(self._max, other._max)
        self.count += other.count

    def percentile_ms(self, percentile: float) -> float:
        """Return the duration that this percentage (0 to 100) of all durations does not exceed."""
        if percentile >= 100:
            return self._max / 1e6
        value: int = self._histogram.get_value_at_percentile(percentile)
        return min(value, self._max) / 1e6

    def summary(self, total_ms: float | None = None) -> Summary:
        """Return what is reported; ``total_ms`` is the mean of the whole that this is a stage of."""
        mean = self._sum / self.count / 1e6 if self.count else 0.0
        return Summary(
            count=self.count,
            mean_ms=mean,
            p50_ms=self.percentile_ms(50),
            p90_ms=self.percentile_ms(90),
            p99_ms=self.percentile_ms(99),
            p999_ms=self.percentile_ms(99.9),
            max_ms=self._max / 1e6,
            share=mean / total_ms if total_ms else None,
            histogram=self._histogram.encode().decode("ascii") if self.count else "",
        )

    def curve(self) -> list[tuple[float, float]]:
        """Return latency by percentile: pairs of a percentage and milliseconds."""
        return [(percentile, self.percentile_ms(percentile)) for percentile in _CURVE]
