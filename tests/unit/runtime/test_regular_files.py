"""sidecar.runtime.regular_files: whole files of bounded size, and nothing that is no file"""

from __future__ import annotations

import errno
import os
import pty
import socket
from pathlib import Path

import pytest

from sidecar.runtime.regular_files import as_text, read


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    """Up to the limit, by a link too, with its mode; its text form shows nothing."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    file.chmod(0o640)
    (tmp_path / "link").symlink_to(file)
    found = read(str(tmp_path / "link"), 100_000)
    assert found.data == b"x" * 100_000
    assert found.mode & 0o777 == 0o640
    assert "xxx" not in repr(found)


@pytest.mark.parametrize("size", [101, 1_000_000])
def test_what_is_larger_is_refused(tmp_path: Path, size: int) -> None:
    """Not cut off: half of a file is another file."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * size)
    with pytest.raises(OSError, match="larger than 100 bytes") as caught:
        read(str(file), 100)
    assert caught.value.errno == errno.EFBIG


def test_the_limit_holds_where_a_file_says_that_it_is_empty() -> None:
    """Those of /proc do."""
    assert os.stat("/proc/self/maps").st_size == 0
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read("/proc/self/maps", 10)


@pytest.mark.parametrize(
    "kind", ["pipe", "socket", "directory", "zero", "full", "terminal", "nul", "nothing"]
)
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    """A pipe would keep its reader waiting, a device has no end. No error has the name."""
    place, ours, theirs = str(tmp_path / "place"), None, None
    match kind:
        case "pipe":
            os.mkfifo(place)
        case "socket":
            ours = socket.socket(socket.AF_UNIX)
            ours.bind(place)
        case "directory":
            os.mkdir(place)
        case "zero" | "full":
            place = f"/dev/{kind}"
        case "terminal":
            theirs = pty.openpty()
            place = os.ttyname(theirs[1])
        case "nul":
            place += "\0"
    with pytest.raises(OSError) as caught:  # noqa: PT011 - each has its own
        read(place, 100)
    assert str(tmp_path) not in str(caught.value)
    assert caught.value.filename is None
    if ours is not None:
        ours.close()
    for descriptor in theirs or ():
        os.close(descriptor)


@pytest.mark.parametrize("text", ["", "e", "{}", "é", "key: Zoë\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_whatever_unicode_it_is_in(text: str, encoding: str) -> None:
    """Windows' editors put a byte order mark before UTF-8, its shells write UTF-16."""
    assert as_text(text.encode(encoding)) == text
