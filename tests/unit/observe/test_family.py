"""sidecar.observe.family: how a metric is declared, and read from a record."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from sidecar.observe.family import Family, Kind, counter, declared, gauge, histogram
from sidecar.observe.histogram import Histogram


@pytest.mark.parametrize(
    ("seconds", "counts"),
    [
        pytest.param(0.0, [1, 0, 0], id="nothing"),
        pytest.param(0.1, [1, 0, 0], id="a-bound-belongs-to-its-bucket"),
        pytest.param(0.11, [0, 1, 0], id="between"),
        pytest.param(1.0, [0, 1, 0], id="last-bound"),
        pytest.param(1.1, [0, 0, 1], id="beyond"),
    ],
)
def test_a_duration_falls_into_the_first_bucket_that_holds_it(seconds: float, counts: list[int]) -> None:
    """A bucket counts what is less than or equal to its bound."""
    histogram = Histogram((0.1, 1.0))
    histogram.observe(seconds)
    assert (histogram.counts, histogram.sum) == (counts, seconds)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        pytest.param("x_duration_seconds", "seconds", id="seconds"),
        pytest.param("x_body_bytes_total", "bytes", id="bytes-of-a-counter"),
        pytest.param("x_requests_total", "", id="none"),
    ],
)
def test_a_unit_is_read_from_the_name(name: str, unit: str) -> None:
    """The unit of a family is what its name ends in, before `_total`."""
    assert Family(name, Kind.GAUGE, "A help.").unit == unit


@dataclass(slots=True)
class Record:
    """One of each kind of field."""

    plain: int = counter("plain_total", "Plain.")
    by_word: dict[str, int] = counter("by_word_total", "By word.", "reason", words=("a", "b"))
    by_two: dict[tuple[str, int], int] = counter("by_two_total", "By two.", "method", "code")
    busy: int = gauge("open", "Open.", state="busy")
    idle: int = gauge("open", "Open.", state="idle")
    current: bool | None = gauge("current", "Current.", default=None)
    took: Histogram = histogram("took_seconds", "Took.", (1.0, 2.0))
    apart: int = 0


def test_a_field_declares_a_family_with_the_labels_of_its_record() -> None:
    """The record's labels come first; fields of one family are one; what is not declared is not shown."""
    assert [(it.family.name, it.family.kind, it.family.labels) for it in declared(Record, "route")] == [
        ("idtoken_sidecar_plain_total", Kind.COUNTER, ("route",)),
        ("idtoken_sidecar_by_word_total", Kind.COUNTER, ("route", "reason")),
        ("idtoken_sidecar_by_two_total", Kind.COUNTER, ("route", "method", "code")),
        ("idtoken_sidecar_open", Kind.GAUGE, ("route", "state")),
        ("idtoken_sidecar_current", Kind.GAUGE, ("route",)),
        ("idtoken_sidecar_took_seconds", Kind.HISTOGRAM, ("route",)),
    ]


def test_a_record_is_read_under_its_labels() -> None:
    """Words of a label are shown from nought on, labels are text, and None is absent."""
    one, other = Record(plain=3, by_two={("GET", 200): 5}, by_word={"b": 2, "c": 1}, idle=4), Record()
    shown = {
        it.family.name.removeprefix("idtoken_sidecar_"): list(it.samples([(("x",), one), (("y",), other)]))
        for it in declared(Record, "route")
    }
    assert shown == {
        "plain_total": [(("x",), 3), (("y",), 0)],
        "by_word_total": [
            *((("x", "a"), 0), (("x", "b"), 2), (("x", "c"), 1)),
            *((("y", "a"), 0), (("y", "b"), 0)),
        ],
        "by_two_total": [(("x", "GET", "200"), 5)],
        "open": [(("x", "busy"), 0), (("x", "idle"), 4), (("y", "busy"), 0), (("y", "idle"), 0)],
        "current": [],
        "took_seconds": [(("x",), one.took), (("y",), other.took)],
    }
