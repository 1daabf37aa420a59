"""Counters of the HTTP service, as text in the format of Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)


class Histogram:
    """The number of observations at or below each bound, and the sum of all observations."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """The samples of this histogram; buckets are cumulative, the last one counts all."""
        lines, below = [], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            lines.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*lines, f"{name}_sum {self.total}", f"{name}_count {below}"]


class Metrics:
    """The counters of the service. All methods are thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._reloads: Counter[str] = Counter(ok=0, failed=0)
        self._seconds = Histogram(_SECONDS)
        self._batches = Histogram(_SIZES)

    def request(self, path: str, status: int, seconds: float | None = None) -> None:
        """Count an answered request. `seconds`, if given, enters the histogram of latencies."""
        with self._lock:
            self._requests[path, status] += 1
            if seconds is not None:
                self._seconds.observe(seconds)

    def batch(self, n_histories: int) -> None:
        """Count one call of the model."""
        with self._lock:
            self._batches.observe(n_histories)

    def reload(self, loaded: bool) -> None:
        """Count an attempt to load a new generation."""
        with self._lock:
            self._reloads["ok" if loaded else "failed"] += 1

    def text(self, **gauges: float) -> str:
        """All metrics in the text format of Prometheus; `gauges` are current values by name."""
        with self._lock:
            requests = [
                f'mscgrec_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self._requests.items())
            ]
            reloads = [
                f'mscgrec_reloads_total{{result="{result}"}} {count}'
                for result, count in sorted(self._reloads.items())
            ]
            seconds = self._seconds.lines("mscgrec_request_seconds")
            batches = self._batches.lines("mscgrec_batch_histories")
        parts = [
            _family("requests_total", "counter", "Answered requests.", requests),
            _family("request_seconds", "histogram", "Seconds per POST /recommend.", seconds),
            _family("batch_histories", "histogram", "Histories per call of the model.", batches),
            _family("reloads_total", "counter", "Attempts to load a new generation.", reloads),
        ]
        for name, value in gauges.items():
            help_text = f"{name.replace('_', ' ').capitalize()} now."
            parts.append(_family(name, "gauge", help_text, [f"mscgrec_{name} {value}"]))
        return "".join(parts)


def _family(name: str, kind: str, help_text: str, samples: list[str]) -> str:
    """One metric: its two comment lines and its samples."""
    head = [f"# HELP mscgrec_{name} {help_text}", f"# TYPE mscgrec_{name} {kind}"]
    return "\n".join([*head, *samples]) + "\n"
