"""What the gateway counts, in Prometheus' text format.

Small and our own: an observation is a list index and an addition. Labels come from known routes,
models and endpoints only: no client can make series up.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import operator
import os
import resource
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

PREFIX = "modeltainer_gateway_"
OTHER = "other"
"""Stands for a model that nobody knows."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_FINE = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1)
_GAPS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 5)

Sample = tuple[str, Sequence[str], float]
"""Suffix of the name, label values, value."""
Snapshot = dict[str, list[tuple[str, tuple[str, ...], float]]]
"""Samples by the family's name."""


class Family:
    """A metric's name, kind and labels."""

    kind = "untyped"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self.name, self.text, self.labels = PREFIX + name, text, tuple(labels)

    def samples(self) -> Iterable[Sample]:
        """Every series' present value."""
        raise NotImplementedError

    def render(self, samples: Iterable[Sample]) -> str:
        """Samples of the family in text form."""
        lines = [f"# HELP {self.name} {self.text}", f"# TYPE {self.name} {self.kind}"]
        for suffix, values, value in samples:
            names = (*self.labels, "le") if suffix == "_bucket" else self.labels
            pairs = ",".join(
                f'{name}="{_escape(one)}"' for name, one in zip(names, values, strict=True)
            )
            lines.append(f"{self.name}{suffix}{{{pairs}}} {value:.10g}")
        return "\n".join(lines) + "\n"

    def together(self, found: Iterable[Iterable[Sample]]) -> list[Sample]:
        """The values of several workers as one."""
        series: dict[tuple[str, tuple[str, ...]], float] = {}
        for samples in found:
            for suffix, labels, value in samples:
                key = suffix, tuple(labels)
                series[key] = self.add_up(series[key], value) if key in series else value
        return [(suffix, labels, value) for (suffix, labels), value in series.items()]

    add_up: Callable[[float, float], float] = staticmethod(operator.add)
    """Makes one value of two workers' values."""


class Counter(Family):
    """Only grows."""

    kind = "counter"

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        super().__init__(name, text, labels)
        self._values: dict[tuple[str, ...], float] = {}

    def add(self, *labels: str, amount: float = 1) -> None:
        """Count."""
        self._values[labels] = self._values.get(labels, 0) + amount

    def samples(self) -> Iterable[Sample]:
        return [("", labels, value) for labels, value in sorted(self._values.items())]


class Gauge(Family):
    """Asked for when somebody looks; what is gone is gone."""

    kind = "gauge"

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        look: Callable[[], Iterable[tuple[Sequence[str], float]]],
        *,
        kind: str = "gauge",
        add_up: Callable[[float, float], float] = operator.add,
    ) -> None:
        super().__init__(name, text, labels)
        self._look, self.kind, self.add_up = look, kind, add_up

    def samples(self) -> Iterable[Sample]:
        return [("", labels, value) for labels, value in self._look()]


class Distribution:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    @property
    def mean(self) -> float:
        """Of all values; 0 when there is none."""
        return self.total / max(1, sum(self.counts))

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


class Histogram(Family):
    """How values are distributed."""

    kind = "histogram"

    def __init__(
        self, name: str, text: str, labels: Sequence[str] = (), bounds: Sequence[float] = _SECONDS
    ) -> None:
        super().__init__(name, text, labels)
        self._bounds = bounds
        self._series: dict[tuple[str, ...], Distribution] = {}

    def of(self, *labels: str) -> Distribution:
        """One series."""
        found = self._series.get(labels)
        if found is None:
            found = self._series[labels] = Distribution(self._bounds)
        return found

    def samples(self) -> Iterable[Sample]:
        found: list[Sample] = []
        for labels, one in sorted(self._series.items()):
            seen = 0
            for bound, count in zip((*self._bounds, "+Inf"), one.counts, strict=True):
                seen += count
                found.append(("_bucket", (*labels, str(bound)), seen))
            found += [("_sum", labels, one.total), ("_count", labels, seen)]
        return found


class Metrics:
    """Everything that is counted while requests run; gauges are added by who knows them."""

    def __init__(self) -> None:
        by_model = ("route", "model")
        self.requests = Counter("requests_total", "Requests by answer.", (*by_model, "status"))
        self.seconds = Histogram("request_seconds", "Whole requests.", by_model)
        self.first_token = Histogram(
            "first_token_seconds", "From a request to its stream's first event.", by_model
        )
        self.gap = Histogram(
            "chunk_gap_seconds", "Between two pieces of a stream.", ("model",), _GAPS
        )
        self.overhead = Histogram(
            "overhead_seconds",
            "Own time: from a request's last byte to its first one on the way to an engine.",
            (),
            _FINE,
        )
        self.retries = Counter(
            "attempts_failed_total", "Tries on an endpoint without an answer.", ("model", "reason")
        )
        self.broken = Counter(
            "answers_broken_total",
            "Answers that had begun with status 200 and broke off.",
            ("model", "reason"),
        )
        self.tokens = Counter(
            "tokens_total", "Tokens as the engines count them.", ("model", "kind")
        )
        self.uncounted = Counter(
            "uncounted_total", "Answers whose tokens no engine has counted.", ("model",)
        )
        self.splits = Counter(
            "split_total",
            "Requests for a split name, by where they went.",
            ("name", "model"),
        )
        self.limited = Counter("limited_total", "Requests over a key's limits.", ("limit",))
        self.families: list[Family] = [
            one for one in vars(self).values() if isinstance(one, Family)
        ]
        self.gauge("process_cpu_seconds_total", "CPU time.", (), _cpu, kind="counter")
        self.gauge("process_resident_bytes", "Memory.", (), _resident)

    def gauge(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        look: Callable[[], Iterable[tuple[Sequence[str], float]]],
        *,
        kind: str = "gauge",
        add_up: Callable[[float, float], float] = operator.add,
    ) -> None:
        """Add one that is asked when somebody looks."""
        self.families.append(Gauge(name, text, labels, look, kind=kind, add_up=add_up))

    @property
    def names(self) -> set[str]:
        """Every name under which there are series."""
        suffixes = {"histogram": ("_bucket", "_sum", "_count")}
        return {
            one.name + suffix for one in self.families for suffix in suffixes.get(one.kind, ("",))
        }

    def snapshot(self) -> Snapshot:
        """All values by family, for other workers."""
        return {
            one.name: [
                (suffix, tuple(labels), float(value)) for suffix, labels, value in one.samples()
            ]
            for one in self.families
        }

    def render(self, alive: Sequence[Snapshot] = (), ended: Sequence[Snapshot] = ()) -> str:
        """This worker's values and those of others, as text. Of workers that have ended, what only
        grows still counts."""
        parts = []
        for one in self.families:
            others = [*alive, *(ended if one.kind != "gauge" else ())]
            found = [one.samples(), *(other.get(one.name, ()) for other in others)]
            parts.append(one.render(one.together(found)))
        return "".join(parts)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _cpu() -> Iterable[tuple[Sequence[str], float]]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return [((), used.ru_utime + used.ru_stime)]


def _resident() -> Iterable[tuple[Sequence[str], float]]:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 (not a path of anybody's)
            pages = int(file.read().split()[1])
    except (OSError, ValueError, IndexError):
        return []
    return [((), pages * os.sysconf("SC_PAGE_SIZE"))]
