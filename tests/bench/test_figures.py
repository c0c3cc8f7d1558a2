"""Medians, ratios within a round, who is out, limits, tables, and charts: what a run makes of its numbers."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from charts import groups, svg
from figures import ROWS, Figures, size
from measure import Plan, Results
from products import catalogue
from reach import LIMITS, Limit, judged
from report import PARTS, document, render


def measured(**rounds: list[float]) -> Figures:
    """Figures of the row `small plain`, by contender."""
    figures = Figures()
    for product, seen in rounds.items():
        for value in seen:
            figures.add("small plain", product, value)
    return figures


def plan(*, quick: bool = False) -> Plan:
    """With every contender."""
    return Plan(
        products=catalogue(envoy="envoy", go="go", sidecar_command="sidecar", earlier=None),
        rounds=3,
        requests=1,
        memory_requests=0,
        stream_rounds=1,
        stream_bytes=2**30,
        quick=quick,
    )


def test_a_ratio_is_the_median_of_those_within_the_rounds() -> None:
    """A slow minute doubles both sides of a round; the ratio of the medians would be 0.75."""
    figures = measured(compiled=[10, 40, 15], envoy=[20, 80, 20])
    assert figures.ratio("small plain", "compiled", "envoy") == 0.5


def test_a_round_in_which_the_reference_cost_nothing_says_nothing() -> None:
    assert measured(compiled=[1, 2], envoy=[0, 4]).ratio("small plain", "compiled", "envoy") == 0.5
    assert measured(compiled=[1], envoy=[0]).ratio("small plain", "compiled", "envoy") is None


@pytest.mark.parametrize("what", ["small", "small plain"], ids=["of a part", "of a row"])
def test_who_is_out_has_no_figures_there(what: str) -> None:
    """Its earlier rounds do not count either: nobody knows what they were answered."""
    figures = measured(compiled=[1], envoy=[2])
    figures.add("start", "envoy", 40)
    figures.out[what, "envoy"] = "answered / with 503 and 0 bytes, not 1024"
    assert figures.ratio("small plain", "compiled", "envoy") is None
    assert figures.of("small plain", "envoy") == ()
    assert figures.median("start", "envoy") == 40


@pytest.mark.parametrize(
    ("limit", "judgement"),
    [
        pytest.param(Limit("small plain", 0.5), ("envoy", "0.50", "met"), id="at the limit"),
        pytest.param(Limit("small plain", 0.49), ("envoy", "0.50", "MISSED"), id="over it"),
        pytest.param(
            Limit("small plain", 12, beside="", worst=True), ("–", "12.00", "met"), id="the worst round"
        ),
        pytest.param(Limit("small plain", 11, beside=""), ("–", "11.00", "met"), id="by itself"),
    ],
)
def test_limits_are_judged(limit: Limit, judgement: tuple[str, str, str]) -> None:
    [line] = judged(measured(compiled=[10, 12], envoy=[20, 24]), [limit])
    _, _, beside, _, found, met = line
    assert (beside, found, met) == judgement


def test_a_limit_beside_another_row_of_its_own() -> None:
    figures = Figures()
    figures.add("few routes", "compiled", 20)
    figures.add("many routes", "compiled", 21)
    [line] = judged(figures)
    assert line[1:] == ("compiled", "its own 1 kB, 32 connections, 10 routes", "1.03", "1.05", "MISSED")


def test_what_was_not_measured_is_not_judged() -> None:
    assert judged(Figures()) == []


def test_every_row_and_limit_has_its_place() -> None:
    assert {row.part for row in ROWS.values()} == set(PARTS)
    assert {limit.row for limit in LIMITS} <= set(ROWS)


def test_the_report_has_a_table_for_each_part_and_names_who_is_out() -> None:
    figures = measured(compiled=[10], envoy=[20])
    figures.add("events", "compiled", 50)
    figures.add("events", "envoy", 60)
    figures.out["live", "go"] = "no echo\nat all"
    text = render("Benchmark", [("processor", "P")], plan(), Results(), figures)
    assert "- processor: P" in text
    assert "- go, of `live`: no echo at all" in text
    assert "| 1,000 streams of events, 10 events a second each |   idtoken-sidecar, compiled |" in text
    assert "say anything" not in text
    assert "say anything" in render("Benchmark", [], plan(quick=True), Results(), figures)


def test_the_data_has_every_round() -> None:
    found = document(
        "Benchmark", [("processor", "P")], measured(compiled=[10, 12], envoy=[20, 24]), quick=False
    )
    assert found["facts"] == {"processor": "P"}
    assert found["rows"] == {
        "small plain": {
            "part": "small",
            "title": "1 kB, 32 connections, plain upstream",
            "unit": "CPU µs a request",
            "rounds": {"compiled": [10, 12], "envoy": [20, 24]},
        }
    }


def test_a_chart_has_a_bar_for_each_contender_with_its_median() -> None:
    figures = measured(compiled=[10, 30, 11], envoy=[20, 24, 22])
    [group] = groups(figures, "small")
    picture = ElementTree.fromstring(svg("A <title>", ["note"], [group]))  # noqa: S314  # our own
    name = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in picture.iter(f"{name}text")]
    assert texts == [
        "A <title>",
        "note",
        f"{group.title} ({group.unit})",
        "compiled",
        "11.0",
        "envoy",
        "22.0",
    ]
    _, own, other = [float(element.attrib["width"]) for element in picture.iter(f"{name}rect")]
    assert own / other == pytest.approx(0.5, rel=0.01)
    assert "prefers-color-scheme: dark" in (picture.findtext(f"{name}style") or "")


def test_a_part_without_figures_has_no_chart() -> None:
    assert groups(Figures(), "live") == []


@pytest.mark.parametrize(("count", "text"), [(2**30, "1 GiB"), (2**24, "16 MiB"), (3 * 2**29, "1.5 GiB")])
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
