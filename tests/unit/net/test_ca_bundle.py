"""sidecar.net.ca_bundle: the file that apps are to trust"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.net.ca_bundle import open_to_others, write


def test_it_is_for_all_to_read(tmp_path: Path) -> None:
    """Whatever the umask says; and for nobody else to write."""
    file = tmp_path / "bundle.pem"
    before = os.umask(0o077)
    try:
        write(str(file), ["a", "b"])
    finally:
        os.umask(before)
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("ab", 0o644)


def test_it_is_another_file_each_time(tmp_path: Path) -> None:
    """Who has the old one open reads that to its end; and nothing else is left behind."""
    file = tmp_path / "bundle.pem"
    write(str(file), ["old"])
    with file.open() as reader:
        write(str(file), ["new"])
        assert reader.read() == "old"
    assert file.read_text() == "new"
    assert os.listdir(tmp_path) == ["bundle.pem"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    """A link, a directory, a place where there is none: an error, and all as it was."""
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    for path in (link, tmp_path):
        with pytest.raises(OSError, match="not a regular file"):
            write(str(path), ["a"])
    with pytest.raises(FileNotFoundError):
        write(str(tmp_path / "none" / "bundle.pem"), ["a"])
    assert os.listdir(tmp_path) == ["link"]


def test_a_directory_for_everybody_is_known(tmp_path: Path) -> None:
    """But for one like /tmp, where nobody can replace another's file."""
    file = str(tmp_path / "bundle.pem")
    for mode, is_open in ((0o755, False), (0o777, True), (0o1777, False)):
        tmp_path.chmod(mode)
        assert open_to_others(file) is is_open
