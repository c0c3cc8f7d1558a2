"""sidecar.proxy.descriptors"""

from __future__ import annotations

import resource

import pytest

from sidecar.proxy.descriptors import room, shared_out

CASES = [
    pytest.param(1_048_576, 1000, 1_047_376, id="plenty"),
    pytest.param(11_200, 1000, 10_000, id="just-enough-for-the-defaults"),
    pytest.param(4096, 1000, 2896, id="a-common-hard-limit"),
    pytest.param(1024, 1000, 412, id="no-room-for-the-pool-upstreams-get-half"),
    pytest.param(64, 1000, 24, id="tiny-a-quarter-for-the-rest"),
    pytest.param(3, 1000, 2, id="almost-none"),
    pytest.param(0, 1000, 1, id="at-least-one"),
]


@pytest.mark.parametrize(("descriptors", "upstream", "apps"), CASES)
def test_descriptors_are_shared_out(descriptors: int, upstream: int, apps: int) -> None:
    """200, or a quarter, for all else; what upstreams may take, or half of the rest, for those; the remainder for apps."""
    assert shared_out(descriptors, upstream) == apps


@pytest.mark.parametrize(
    ("limit", "apps"),
    [
        pytest.param(resource.RLIM_INFINITY, None, id="none"),
        pytest.param(1024, shared_out(1024, 100), id="a-limit"),
    ],
)
def test_the_processs_own_limit_counts(monkeypatch: pytest.MonkeyPatch, limit: int, apps: int | None) -> None:
    """The soft one; without one there is room for any number."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, resource.RLIM_INFINITY))
    assert room(100) == apps
