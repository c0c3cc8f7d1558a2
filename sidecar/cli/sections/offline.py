"""Try it without Google Cloud: `demo`; `emulator` is a command of the emulator itself."""

from __future__ import annotations

import sys

import click

from sidecar.cli.output import EXIT_CODES


@click.command(epilog=EXIT_CODES)
@click.option("--once", is_flag=True, help="Do it once and exit: 0 if every call was verified.")
def demo(once: bool) -> None:
    """Show every feature on this machine, against an embedded emulator of Google."""
    from sidecar.cli.demo import show_all

    sys.exit(show_all(once=once))
