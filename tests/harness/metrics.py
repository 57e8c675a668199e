"""What does a page of Prometheus text say?"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the page."""

    name: str
    labels: dict[str, str]
    value: float


class Samples:
    """All samples of one page."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples

    def where(self, name: str, **labels: str) -> Iterator[Sample]:
        for sample in self.samples:
            if sample.name == name and all(sample.labels.get(k) == v for k, v in labels.items()):
                yield sample

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of `name` with these labels; 0 when there is none."""
        return sum(sample.value for sample in self.where(name, **labels))

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Sums per value of one label."""
        sums: dict[str, float] = {}
        for sample in self.where(name, **labels):
            value = sample.labels.get(label, "")
            sums[value] = sums.get(value, 0.0) + sample.value
        return sums


def parse_metrics(text: str) -> Samples:
    """The samples of `text`; a line that is no sample fails the test."""
    samples = []
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        match = _LINE.match(line)
        assert match, f"no sample: {line!r}"
        samples.append(Sample(match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])))
    return Samples(samples)
