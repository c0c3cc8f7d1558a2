"""docs/conformance.md against the tables: without a peer."""

from __future__ import annotations

import pytest

from tests.conformance import page, record
from tests.conformance.requests import REQUESTS
from tests.conformance.responses import RESPONSES

AGAIN = (
    "run `make compare-peers`: a case is new, gone, or has other bytes than those that the peers were given"
)


@pytest.fixture(scope="module")
def kept() -> record.Record:
    return record.load()


def test_the_peers_were_given_the_cases_of_the_tables(kept: record.Record) -> None:
    """Each by its name and all of its bytes, each name once."""
    for cases, known in ((REQUESTS, kept["requests"]), (RESPONSES, kept["responses"])):
        assert len({case.name for case in cases}) == len(cases)
        assert {case.name: record.digest(case) for case in cases} == {
            name: entry["digest"] for name, entry in known.items()
        }, AGAIN
    assert len(REQUESTS) >= 200
    assert len(RESPONSES) >= 80


def test_the_page_says_what_the_tables_and_the_peers_say(kept: record.Record) -> None:
    """Every case, the sidecar's verdict as test_hostile holds it, the peers' as they were last seen."""
    assert page.PAGE.read_text() == page.render(kept), "run `python -m tests.conformance.page`"


def test_no_peer_refuses_what_the_sidecar_forwards(kept: record.Record) -> None:
    """The issue's rule; what is excused is a case of the tables that the peer does refuse, with its reason."""
    assert page.defects(kept) == []
    known = kept["requests"] | kept["responses"]
    for name, peer in page.NOT_ABOUT_THE_MESSAGE | page.FORWARDED_IN_ANOTHER_FORM:
        assert page.refuses(known[name][peer]), f"{name} needs no excuse for {peer}"


def test_a_defect_would_show(kept: record.Record) -> None:
    """A peer that begins to refuse what passes here is found."""
    changed = kept["requests"] | {
        "value-empty": {**kept["requests"]["value-empty"], "nginx": "400"},
    }
    found = page.defects({**kept, "requests": changed})
    assert found == [("value-empty", "nginx", "400")]
    assert "- value-empty: nginx says 400" in page.render({**kept, "requests": changed})


def test_every_difference_has_its_reason(kept: record.Record) -> None:
    """Where the sidecar refuses what a peer lets through, the page says why."""
    for table in page.rows(kept):
        for row in table:
            if row.refused and not all(page.refuses(row.peers[peer]) for peer in page.PEERS):
                assert page.reason(row.name), row.name
