"""The program in go/peer, which stands around a product where Python would be too slow to stand there.

Owns: how it is started as an upstream, as a metadata server and as a load, and what it says.
Called by: shapes, live, latency, tokens.
May not: measure the product.
Rule: it runs on the load's cores. A load that sees one wrong answer ends, and that is a RunError.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from load import HOST
from process import Process, RunError, free_port, wait_listening

LOAD_SECONDS = 120
"""Longer than any load takes to come to its end after it was ready, beside its own length."""


@contextmanager
def serving(
    program: str, command: str, directory: Path, cores: Sequence[int], **options: float
) -> Iterator[int]:
    """Run it as `upstream` or `metadata`: its port."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    argv = [program, command, "-listen", f"127.0.0.1:{port}", *_flags(options)]
    with Process(f"peer {command}", argv, cores=cores, directory=directory) as process:
        wait_listening(process, port)
        yield port


def load(
    program: str,
    command: str,
    port: int,
    cores: Sequence[int],
    options: Mapping[str, float],
    begin: Callable[[], object] = lambda: None,
) -> dict[str, float]:
    """Run a load to its end; `begin` is called once all its connections are up. RunError on a wrong answer.

    `options` are flags of the load and their numbers.
    """
    argv = [
        *("taskset", "--cpu-list", ",".join(map(str, cores)), program, command),
        *("-to", f"127.0.0.1:{port}", "-host", HOST, *_flags(options)),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            if running.stdout.readline() == "ready\n":
                begin()
            said, complaint = running.communicate(timeout=LOAD_SECONDS + options.get("seconds", 0))
        except subprocess.TimeoutExpired as error:
            raise RunError(f"the load `{command}` on port {port} does not end") from error
        finally:
            running.kill()
    if running.returncode:
        raise RunError(f"the load `{command}` on port {port} failed: {complaint.strip()[-400:]}")
    return parsed(said)


def parsed(said: str) -> dict[str, float]:
    """The counts in the last line of a load; RunError where there are none."""
    try:
        return {name: float(value) for name, value in json.loads(said).items()}
    except (ValueError, AttributeError) as error:
        raise RunError(f"a load printed no counts, but {said[-200:]!r}") from error


def _flags(options: Mapping[str, float]) -> list[str]:
    return [f"-{name}={value}" for name, value in options.items()]
