"""sidecar.runtime.descriptors"""

from __future__ import annotations

import errno
import os
import resource

import pytest

from sidecar.errors import Reason
from sidecar.runtime.descriptors import none_left, room, shared_out, shortage

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


@pytest.mark.parametrize(
    ("number", "words"),
    [
        pytest.param(errno.EMFILE, "This process, which may have ", id="the-processs"),
        pytest.param(errno.ENFILE, "This machine has no file descriptor left for asking X", id="the-systems"),
    ],
)
def test_the_error_says_which_table_is_full_and_how_to_raise_its_limit(number: int, words: str) -> None:
    """Nobody should raise the one where the other is full."""
    error = none_left("asking X", OSError(number, ""))
    assert (error.reason, error.status) == (Reason.NO_DESCRIPTORS, 503)
    assert words in error.detail
    assert ("fs.file-max" in error.detail) is (number == errno.ENFILE)
    assert ("ulimit -n" in error.detail) is (number == errno.EMFILE)


def test_there_is_no_shortage_here() -> None:
    """Looking costs a descriptor, and gives it back."""
    before = os.dup(0)
    os.close(before)
    assert shortage() is None
    after = os.dup(0)
    os.close(after)
    assert before == after
