"""docs/conformance-http2.md against the tables: without a peer."""

from __future__ import annotations

import pytest

from tests.conformance.http2 import page, record
from tests.conformance.http2.sections import MISSES, SECTIONS

AGAIN = (
    "run `make compare-peers`: a case is new, gone, or has other bytes than those that the peers were given"
)


@pytest.fixture(scope="module")
def kept() -> record.Record:
    return record.load()


def test_the_peers_were_given_the_cases_of_the_tables(kept: record.Record) -> None:
    """Each by its name and what it sends, each name once."""
    for table, cases in record.TABLES.items():
        assert len({case.name for case in cases}) == len(cases)
        assert {case.name: record.digest(case) for case in cases} == {
            name: entry["digest"] for name, entry in kept[table].items()
        }, AGAIN


def test_the_page_says_what_the_tables_and_the_peers_say(kept: record.Record) -> None:
    assert page.PAGE.read_text() == page.render(kept), "run `python -m tests.conformance.http2.page`"


def test_what_is_missed_is_a_case_of_the_table() -> None:
    assert MISSES.keys() <= {case.name for case in SECTIONS}
