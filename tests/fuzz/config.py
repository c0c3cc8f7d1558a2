"""The text of a configuration; behind NULs, what flags, `--to` and the environment say."""

from __future__ import annotations

import re
from typing import Final

from sidecar.config.document import HIDDEN, shown
from sidecar.config.load import SETTINGS, ConfigError, Loaded, load
from sidecar.proxy.admission.admission import Admission
from sidecar.routing.routes import RouteTable
from tests.fuzz.stage import Finding, expect

SECRET: Final = "s3cr3t-that-nobody-may-see"
_ENVIRON: Final = {"SECRET": SECRET, "NAME": "billing", "URL": "https://billing.example", "EMPTY": ""}
_LINE_BREAKS: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
"""What YAML 1.1 takes for one."""
_WHERE: Final = re.compile(r"config\.yaml:(\d+):(\d+)")
_PLACES: Final = {
    "config.yaml",
    *(setting.flag for setting in SETTINGS),
    *(setting.variable for setting in SETTINGS),
}


def target(data: bytes) -> None:
    """Raise a Finding for what is neither a Config nor a ConfigError, a place that is none, or a secret that shows."""
    text, *more = data.decode("utf-8", "replace").split("\0", 3)
    flag, to, variable = (*more, *("", "", "")[len(more) :])
    name, _, value = flag.partition("=")
    flags = {name: value} if name in _NAMES else {}
    environ = dict(_ENVIRON)
    key, _, value = variable.partition("=")
    if key.isidentifier():
        environ[key] = value
    try:
        loaded = load(text, environ=environ, flags=flags, to=to.split(" ") if to else ())
    except ConfigError as error:
        _judge_error(error, text, to)
        return
    _judge(loaded)


_NAMES: Final = {setting.name for setting in SETTINGS}


def _judge_error(error: ConfigError, text: str, to: str) -> None:
    expect(error.problems and str(error), "an error without a problem")
    lines = _LINE_BREAKS.split(text)
    for problem in error.problems:
        if match := _WHERE.fullmatch(problem.where):
            line, column = int(match[1]), int(match[2])
            expect(1 <= line <= len(lines) + 1, "a line that is not there", problem)
            length = len(lines[line - 1]) if line <= len(lines) else 0
            expect(1 <= column <= length + 2, "a column that is not there", problem)
        else:
            known = problem.where in _PLACES or (bool(to) and problem.where.split(" ")[0] == "--to")
            expect(known, "no place", problem)
        expect(problem.message.strip(), "no message", problem)
        expect(len(problem.message) <= 2000 + len(text), "a message without bound", len(problem.message))
        if problem.path.startswith("credentials.") and problem.path.endswith((".token", ".json")):
            expect(SECRET not in problem.message, "a secret is shown", problem)


def _judge(loaded: Loaded) -> None:
    """What was taken can be used, and written out and read again is the same."""
    config = loaded.config
    table = RouteTable.compile(config)
    Admission(table, pseudonym=b"sidecar")
    expect(table.routes, "no route")
    for route in table.routes:
        if (fixed := route.fixed()) is not None:
            expect(fixed.host and fixed.audience and 0 < fixed.port < 65536, "no destination", fixed)
            expect(fixed.authority.isascii() and not set(fixed.origin) & set(b" \r\n\0"), "bytes", fixed)
    text = shown(config)
    if HIDDEN in text:
        return  # such a copy does not load again
    try:
        again = load(text, environ={}).config
    except ConfigError as error:
        raise Finding(f"what was taken is not taken again: {error}: {text!r}") from error
    expect(again == config, "another configuration when read again", text)
