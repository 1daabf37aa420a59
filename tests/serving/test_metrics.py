"""The counters of the service."""

from __future__ import annotations

from recbole_mscgrec.serving.metrics import Histogram, Metrics


def test_buckets_are_cumulative_and_bounds_belong_to_them() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.5, 1.0, 2.0, 3.0):
        histogram.observe(value)
    assert histogram.lines("x") == [
        'x_bucket{le="1.0"} 2',
        'x_bucket{le="2.0"} 3',
        'x_bucket{le="+Inf"} 4',
        "x_sum 6.5",
        "x_count 4",
    ]


def test_the_text_has_every_family_once() -> None:
    metrics = Metrics()
    metrics.request("/recommend", 200, 0.02)
    metrics.request("/recommend", 200, 0.2)
    metrics.request("/health", 503)
    metrics.batch(3)
    metrics.reload(True)
    metrics.reload(False)
    lines = metrics.text(queue_length=5, generation=2).splitlines()
    for line in (
        'mscgrec_requests_total{path="/health",status="503"} 1',
        'mscgrec_requests_total{path="/recommend",status="200"} 2',
        'mscgrec_request_seconds_bucket{le="0.025"} 1',
        "mscgrec_request_seconds_count 2",
        'mscgrec_batch_histories_bucket{le="4.0"} 1',
        'mscgrec_reloads_total{result="failed"} 1',
        'mscgrec_reloads_total{result="ok"} 1',
        "mscgrec_queue_length 5",
        "mscgrec_generation 2",
    ):
        assert line in lines
    types = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types)) == 6
