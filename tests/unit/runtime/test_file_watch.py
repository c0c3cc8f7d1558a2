"""sidecar.runtime.file_watch: what counts as a change, and how often it is looked for"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.runtime.file_watch import EVERY, FileWatch
from tests.support.clock import FakeClock


class Watched:
    def __init__(self, directory: Path) -> None:
        self.file = directory / "token"
        self.changed: list[str] = []
        self.clock = FakeClock()
        self.watch = FileWatch({"vault": str(self.file)}, self.clock, self.changed.append)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def replace(file: Path, text: str) -> None:
    """Another file in its place, as those who renew tokens write them."""
    (file.parent / "new").write_text(text)
    os.replace(file.parent / "new", file)


def test_a_replaced_file_is_reported_once(watched: Watched) -> None:
    """At the next look, and not again until it changes again; what was there at the start is known."""
    watched.file.write_text("a")
    watched.watch.start()
    watched.clock.advance(EVERY)
    assert watched.changed == []
    replace(watched.file, "b")
    watched.clock.advance(EVERY)
    watched.clock.advance(10 * EVERY)
    assert watched.changed == ["vault"]


def test_a_file_that_comes_is_a_change_and_one_that_goes_is_none(watched: Watched) -> None:
    """So that a token that was missing is fetched as soon as it is there."""
    watched.watch.start()
    watched.file.write_text("a")
    watched.clock.advance(EVERY)
    assert watched.changed == ["vault"]
    watched.file.unlink()
    watched.clock.advance(EVERY)
    assert watched.changed == ["vault"]


def test_a_swapped_link_is_a_change(watched: Watched, tmp_path: Path) -> None:
    """As Kubernetes swaps a volume's."""
    for name in ("1", "2"):
        (tmp_path / name).write_text(name)
    watched.file.symlink_to(tmp_path / "1")
    watched.watch.start()
    (tmp_path / "link").symlink_to(tmp_path / "2")
    os.replace(tmp_path / "link", watched.file)
    watched.clock.advance(EVERY)
    assert watched.changed == ["vault"]


def test_a_probe_looks_at_once_and_the_end_is_the_end(watched: Watched) -> None:
    """`look` does not wait for the timer; after `stop` there is none."""
    watched.file.write_text("a")
    watched.watch.start()
    replace(watched.file, "b")
    watched.watch.look()
    assert watched.changed == ["vault"]
    watched.watch.stop()
    replace(watched.file, "c")
    watched.clock.advance(10 * EVERY)
    assert watched.changed == ["vault"]


def test_other_files_after_a_reload(watched: Watched, tmp_path: Path) -> None:
    """A file that is still watched and changed meanwhile is reported; one that is new is known as it is; one that is
    watched no more is not looked at."""
    other = tmp_path / "other"
    watched.file.write_text("a")
    other.write_text("a")
    watched.watch.start()
    replace(watched.file, "b")
    watched.watch.watch({"vault": str(watched.file), "other": str(other)})
    watched.clock.advance(EVERY)
    assert watched.changed == ["vault"]
    watched.watch.watch({"other": str(other)})
    replace(watched.file, "c")
    replace(other, "b")
    watched.clock.advance(EVERY)
    assert watched.changed == ["vault", "other"]
    assert watched.clock.pending == [EVERY]


def test_without_files_no_timer_runs(watched: Watched) -> None:
    """Most configurations have no `file` credential: they pay nothing; and stopping twice is harmless."""
    watched.watch.start()
    watched.watch.watch({})
    watched.watch.stop()
    assert watched.clock.pending == []
