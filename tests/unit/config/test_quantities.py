"""sidecar.config.quantities and sidecar.config.addresses"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config.addresses import parse_listen
from sidecar.config.quantities import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("250ms", 0.25),
        ("2h", 7200.0),
        ("0s", 0.0),
        ("1.5s", 1.5),
        ("1h1m1s1ms", 3661.001),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """Go's notation, in seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "10", "10 s", "-1s", "1d", "1s2", "s1", "1..5s", "１s", "1e3s", 5, 1.5, None, True]
)
def test_what_is_no_duration(text: object) -> None:
    """Above all a bare number."""
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(0, 10**9))
def test_durations_are_written_as_they_are_read(milliseconds: int) -> None:
    """To the millisecond."""
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("text", "size"), [("512B", 512), ("64KiB", 65536), ("1MiB", 1 << 20), ("2GiB", 2 << 30), ("0B", 0)]
)
def test_sizes(text: str, size: int) -> None:
    """IEC units, in bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "64", "64K", "64KB", "-1B", "1.5KiB", 64, None, True])
def test_what_is_no_size(text: object) -> None:
    """Above all a bare number."""
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@given(st.integers(0, 1 << 40))
def test_sizes_are_written_as_they_are_read(size: int) -> None:
    """Exactly."""
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    "text", ["localhost:8787", "127.0.0.1:0", "[::1]:8787", "0.0.0.0:1", "unix:/run/a.sock"]
)
def test_addresses_are_written_as_they_are_read(text: str) -> None:
    """As in the file."""
    assert str(parse_listen(text)) == text


@pytest.mark.parametrize(
    ("path", "says"),
    [("/" + "a" * 107, "at most 107 bytes, and this one has 108"), ("/a\0b", "no control characters")],
)
def test_a_unix_sockets_path_is_one_that_the_system_takes(path: str, says: str) -> None:
    """sun_path of unix(7); a zero byte would come out as a traceback at start."""
    with pytest.raises(ValueError, match=says):
        parse_listen(f"unix:{path}")


CLASHES = [
    ("localhost:1", "127.0.0.1:1", True),
    ("localhost:1", "[::1]:1", True),
    ("localhost:1", "localhost:2", False),
    ("127.0.0.1:1", "[::1]:1", False),
    ("0.0.0.0:1", "127.0.0.1:1", True),
    ("[::]:1", "127.0.0.1:1", False),
    ("[::]:1", "localhost:1", True),
    ("127.0.0.1:0", "127.0.0.1:0", False),
    ("unix:/a", "unix:/a", True),
    ("unix:/a", "unix:/b", False),
    ("unix:/a", "127.0.0.1:1", False),
]


@pytest.mark.parametrize(("one", "other", "clash"), CLASHES)
def test_clashes_are_seen_before_binding(one: str, other: str, clash: bool) -> None:
    """In both directions."""
    assert parse_listen(one).clashes(parse_listen(other)) is clash
    assert parse_listen(other).clashes(parse_listen(one)) is clash
