"""`help`: the page of a reason, or a command's own help, in the terminal."""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any, Final

import click

from sidecar.cli.near_misses import Command
from sidecar.cli.output import columns, give_up
from sidecar.config.checks import nearest
from sidecar.errors import MEANINGS, Reason
from sidecar.grammar.contents import quoted
from sidecar.proxy.refusals.diagnosis import Cause

_LINK: Final = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


@click.command("help", cls=Command)
@click.argument("word", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def help_(context: click.Context, word: str | None, as_json: bool) -> None:
    """Say what a reason means and what to do about it. WORD may be a command too.

    \b
    idtoken-sidecar help no_route
    idtoken-sidecar help check

    A reason is the word that an answer, a log line and a metric of the sidecar share, such as `token_denied`.
    """
    root = context.find_root()
    command = None
    if isinstance(root.command, click.Group) and word is not None:
        command = root.command.get_command(root, word)
    if word is None:
        click.echo(root.get_help())
    elif (page := _page(word.lower().replace("-", "_"))) is not None:
        click.echo(json.dumps(page, indent=2) if as_json else _written(page))
    elif command is not None:
        click.echo(command.get_help(click.Context(command, root, info_name=word)))
    else:
        known = [
            *Reason,
            *Cause,
            *(root.command.list_commands(root) if isinstance(root.command, click.Group) else ()),
        ]
        give_up(f"{quoted(word)} is neither a reason nor a command{nearest(word, map(str, known))}")


def _page(word: str) -> dict[str, Any] | None:
    from sidecar.cli.advice import ADVICE, CAUSES

    if word in list(Cause) and word not in list(Reason):
        return {
            "reason": word,
            "title": "The target refused the request",
            "source": "target",
            "says": _plain(CAUSES[Cause(word)]),
        }
    if word not in list(Reason):
        return None
    reason = Reason(word)
    meaning = MEANINGS[reason]
    return {
        "reason": word,
        "title": meaning.title,
        "status": meaning.status,
        "source": str(meaning.source),
        "says": _plain(ADVICE[reason]),
    }


def _plain(markdown: str) -> str:
    """Text for a terminal: a link is its words and the page's name."""
    return _LINK.sub(lambda match: f"{match[1]} (docs/{match[2]})", markdown)


def _written(page: dict[str, Any]) -> str:
    width = min(columns(), 100)
    status = f" · {page['status']}" if "status" in page else ""
    head = f"{click.style(page['reason'], bold=True)}{status} · source: {page['source']}"
    says = textwrap.fill(
        f"{page['title']}. {page['says']}", width, break_long_words=False, break_on_hyphens=False
    )
    return f"{head}\n\n{says}"
