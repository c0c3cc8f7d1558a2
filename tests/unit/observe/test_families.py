"""sidecar.observe.families: the names that operators see."""

from __future__ import annotations

from dataclasses import fields

import pytest

from sidecar.observe.families import FAMILIES
from sidecar.observe.family import Family, Kind, declared
from sidecar.observe.metrics import (
    HandoutStats,
    ListenerStats,
    LoopStats,
    ReloadStats,
    RouteStats,
    TokenStats,
)

LABELS = {
    "direction",
    "status",
    "kind",
    "server",
    "route",
    "audience",
    "build",
    "credential",
    "code",
    "method",
    "reason",
    "state",
    "result",
    "version",
    "python",
}
"""The closed set: design.md's, and four whose values are fixed words."""

FORBIDDEN = {
    *("project_id", "location", "cluster", "namespace", "job", "instance", "instanceId"),
    *("service_name", "revision_name", "configuration_name"),
}
"""Google's collectors set these themselves."""


@pytest.mark.parametrize("family", [pytest.param(family, id=family.name) for family in FAMILIES])
def test_a_family_keeps_to_the_naming_rules(family: Family) -> None:
    """A name has the prefix and the suffix of its kind, a help text is a full sentence, labels are known."""
    assert family.name.startswith("idtoken_sidecar_")
    assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
    assert family.name.endswith("_info") == (family.kind is Kind.INFO)
    assert family.help[0].isupper()
    assert family.help.endswith(".")
    assert "\n" not in family.help
    assert set(family.labels) <= LABELS
    assert not set(family.labels) & FORBIDDEN
    assert len(set(family.labels)) == len(family.labels)


def test_a_family_is_declared_once() -> None:
    """No two families share a name."""
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)


@pytest.mark.parametrize(
    "record", [LoopStats, ReloadStats, RouteStats, ListenerStats, TokenStats, HandoutStats]
)
def test_what_is_counted_is_shown(record: type) -> None:
    """Every field of a record is declared with a family, which is in the table; a token's two histograms are shown by
    credential."""
    names = {family.name for family in FAMILIES}
    assert {it.family.name for it in declared(record)} <= names
    undeclared = {it.name for it in fields(record) if not it.metadata}
    assert undeclared == ({"duration", "wait"} if record is TokenStats else set())
