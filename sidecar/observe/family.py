"""How a metric is declared: at the field of the record in which it is counted.

`counter`, `gauge` and `histogram` make the fields of a record, which is a dataclass with slots: what the data path
writes is a plain integer, a dict of them, or a `Histogram`. `declared` gives the families of a record, and how each
is read. Names and help texts are what operators see: OpenMetrics 1.0 and Prometheus naming (base units, `_total`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import partial
from typing import Any, Final, NamedTuple, final

from sidecar.observe.histogram import Histogram


class Kind(StrEnum):
    """What a family is, in OpenMetrics terms."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric as an operator sees it."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """The base unit that the name ends in, or nothing."""
        stem = self.name.removesuffix("_total")
        return next((unit for unit in ("seconds", "bytes") if stem.endswith("_" + unit)), "")


Labels = tuple[str, ...]
"""The values of a family's labels, in their order."""

Samples = Iterable[tuple[Labels, float | Histogram]]
"""What a family shows in one scrape."""


def family(name: str, kind: Kind, text: str, *labels: str) -> Family:
    """A family under the sidecar's prefix."""
    return Family(f"idtoken_sidecar_{name}", kind, text, labels)


class _Declaration(NamedTuple):
    """How a field is shown. `family` does not have the record's own labels yet."""

    family: Family
    fixed: Labels
    """Label values, if each field has one of them."""
    words: Labels
    """Label values that are shown from zero on."""

    def samples(self, value: Any) -> Iterator[tuple[Labels, float | Histogram]]:
        if isinstance(value, dict):
            # From nought on, each: a rate does not see the step with which a series begins.
            for key, count in ({**dict.fromkeys(self.words, 0), **value} if self.words else value).items():
                yield (tuple(map(str, key)) if isinstance(key, tuple) else (key,)), count
        elif value is not None:
            yield self.fixed, value


_DECLARATION: Final = "declaration"


def counter(name: str, text: str, *labels: str, words: Iterable[str] = ()) -> Any:
    """A field that only grows: an integer, or with `labels` a dict of integers by label values (by tuples for several
    labels). `words` are label values that are shown before they occur.
    """
    shown = _Declaration(family(name, Kind.COUNTER, text, *labels), (), tuple(words))
    if labels:
        return field(default_factory=dict, metadata={_DECLARATION: shown})
    return field(default=0, metadata={_DECLARATION: shown})


def gauge(name: str, text: str, *, default: float | None = 0, **fixed: str) -> Any:
    """A field that goes up and down; None is not shown. Fields of one family are declared together and differ by
    their `fixed` labels.
    """
    shown = _Declaration(family(name, Kind.GAUGE, text, *fixed), tuple(fixed.values()), ())
    return field(default=default, metadata={_DECLARATION: shown})


def histogram(name: str, text: str, bounds: tuple[float, ...]) -> Any:
    """A field of durations."""
    shown = _Declaration(family(name, Kind.HISTOGRAM, text), (), ())
    return field(default_factory=partial(Histogram, bounds), metadata={_DECLARATION: shown})


@final
class Declared:
    """A family of one kind of record, and how to read it from a record."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self._parts: list[tuple[str, _Declaration]] = []

    def samples(self, records: Iterable[tuple[Labels, Any]]) -> Samples:
        """The records' samples, each with its own labels."""
        for labels, record in records:
            for attribute, declaration in self._parts:
                for more, value in declaration.samples(getattr(record, attribute)):
                    yield labels + more, value

    def add(self, attribute: str, declaration: _Declaration) -> None:
        """Show one more field."""
        self._parts.append((attribute, declaration))


def declared(record: type, *labels: str) -> list[Declared]:
    """The families of a dataclass whose records have `labels`, in the order of its fields."""
    found: dict[str, Declared] = {}
    for it in fields(record):
        if (declaration := it.metadata.get(_DECLARATION)) is None:
            continue
        own: Family = declaration.family
        if own.name not in found:
            found[own.name] = Declared(Family(own.name, own.kind, own.help, labels + own.labels))
        found[own.name].add(it.name, declaration)
    return list(found.values())
