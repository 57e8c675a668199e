"""How do series look in Prometheus' protobuf format?

The only format that carries native histograms. The messages are those of `MetricFamily` in
prometheus/client_model (io/prometheus/client/metrics.proto), each after its length; written
by hand, for there are six of them and a scraper that asks for them is the only one that does.
"""

import struct
from collections.abc import Mapping

from gateway.telemetry.buckets import SCHEMA, native
from gateway.telemetry.catalogue import Metric
from gateway.telemetry.prometheus_text import Observed
from gateway.telemetry.series import Labels

CONTENT_TYPE = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)
_TYPES = {"counter": 0, "gauge": 1, "histogram": 4}
_ZERO_THRESHOLD = 2.0**-128  # Prometheus' own: nothing is so short, so nothing is in there


def family(metric: Metric, series: bytes) -> bytes:
    """A whole family, after its length."""
    body = _text(1, metric.name) + _text(2, metric.meaning) + _number(3, _TYPES[metric.kind])
    return _varint(len(body) + len(series)) + body + series


def counter(metric: Metric, labels: Labels, counts: Mapping[Labels, float]) -> bytes:
    return b"".join(
        _metric(metric, (*labels, *more), 3, _double(1, count)) for more, count in counts.items()
    )


def gauge(metric: Metric, values: Mapping[Labels, float]) -> bytes:
    return b"".join(
        _metric(metric, labels, 2, _double(1, value)) for labels, value in values.items()
    )


def histogram(metric: Metric, labels: Labels, observed: Observed) -> bytes:
    """Both kinds of buckets: a scraper takes what it wants."""
    parts = [_number(1, observed.at_most[-1]), _double(2, observed.seconds)]
    for bound, count in zip(observed.bounds, observed.at_most, strict=False):
        parts.append(_message(3, _number(1, count) + _double(2, bound)))
    parts += [_number(5, _zigzag(SCHEMA)), _double(6, _ZERO_THRESHOLD), _number(7, 0)]
    spans: list[list[int]] = []
    deltas: list[int] = []
    last, count_before = 0, 0
    for index, count in sorted(native(observed.buckets).items()):
        if spans and index == last + 1:
            spans[-1][1] += 1
        else:
            spans.append([index - last - 1 if spans else index, 1])
        deltas.append(count - count_before)
        last, count_before = index, count
    parts += [_message(12, _number(1, _zigzag(gap)) + _number(2, n)) for gap, n in spans]
    parts.append(_message(13, b"".join(_varint(_zigzag(delta)) for delta in deltas)))
    return _metric(metric, labels, 7, b"".join(parts))


def _metric(metric: Metric, labels: Labels, kind: int, value: bytes) -> bytes:
    pairs = [
        _message(1, _text(1, name) + _text(2, label))
        for name, label in zip(metric.labels, labels, strict=True)
    ]
    return _message(4, b"".join(pairs) + _message(kind, value))


def _message(field: int, body: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(body)) + body


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else -value * 2 - 1


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
