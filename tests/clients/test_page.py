"""docs/clients.md against what was kept of the last run."""

from __future__ import annotations

from tests.clients import page, results
from tests.clients.http_clients import CLIENTS
from tests.clients.libraries import LIBRARIES


def test_the_page_says_what_was_seen() -> None:
    """Every line of it, without a client."""
    assert page.PAGE.read_text("utf-8") == page.render(results.load()), "run `make clients-page`"


def test_every_client_was_tried_and_none_fails() -> None:
    """By every way that the tables give it: the page is of a whole run."""
    kept = results.load()
    for name, client in CLIENTS.items():
        for way in client.ways:
            assert kept[f"http-{name}"][way] == dict.fromkeys(client.tasks_by(way), True), (name, way)
    platforms = [part for part in kept["go"] if part]
    for name, library in LIBRARIES.items():
        # What the version at hand lacks is told by its name.
        found = {
            way: said for way, said in kept[name].get("", {}).items() if not (way in library.newer and said)
        }
        tried = [way for way in library.ways if way not in library.newer]
        assert found == dict.fromkeys(tried, True), name
        for platform in platforms if library.metadata else ():
            assert kept[name][platform] == dict.fromkeys(library.metadata, True), (name, platform)
