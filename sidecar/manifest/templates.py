"""Fills in manifests: YAML, unit files, shell and HCL with placeholders.

Owns the syntax of those places, and reads no file but those of `templates/` beside it. A template is valid in its own
language, because all that is added to it is a scalar or a comment:

    name: $name             a value of one line, `${name}` before a letter; `$$` is a `$`
    #: environment          a line of its own: the value's lines, at this line's indentation; none for an empty value
    #if metrics             the lines up to `#else` or `#end`, where the value is true or not empty

The names given must be exactly those of the template, so that a wrong name on either side is noticed.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from importlib import resources
from typing import Final

Value = str | int | bool | None

_IF: Final = re.compile(r" *#if (\w+)")
_ELSE: Final = re.compile(r" *#else")
_END: Final = re.compile(r" *#end")
_LINES: Final = re.compile(r"( *)#: (\w+)")
_PLACE: Final = re.compile(r"\$(?:(\$)|([a-z_]+)|\{([a-z_]+)\})")


def filled(file: str, **values: Value) -> str:
    """The template `file`, such as `cloud-run/service.yaml`, with these values. Raises what `fill` does."""
    template = resources.files(__package__).joinpath("templates", *file.split("/")).read_text("utf-8")
    return fill(template, values)


def fill(template: str, values: Mapping[str, Value]) -> str:
    """Raises KeyError for a name that only one side has, ValueError for a value of several lines inside a line."""
    if differing := _names(template) ^ set(values):
        raise KeyError(*sorted(differing))
    lines: list[str] = []
    open_parts: list[bool] = []
    for line in template.splitlines():
        if (begins := _IF.fullmatch(line)) is not None:
            open_parts.append(bool(values[begins[1]]))
        elif _ELSE.fullmatch(line):
            open_parts[-1] = not open_parts[-1]
        elif _END.fullmatch(line):
            open_parts.pop()
        elif all(open_parts):
            lines += _filled_line(line, values)
    if open_parts:
        raise ValueError("an `#if` without its `#end`")
    return "".join(f"{line}\n" for line in lines)


def _filled_line(line: str, values: Mapping[str, Value]) -> list[str]:
    if (several := _LINES.fullmatch(line)) is not None:
        return textwrap.indent(str(values[several[2]]).rstrip("\n"), several[1]).splitlines()

    def value(place: re.Match[str]) -> str:
        if place[1]:
            return "$"
        name = place[2] or place[3]
        if "\n" in (text := str(values[name])):
            raise ValueError(f"`${name}` has several lines, and stands within one")
        return text

    return [_PLACE.sub(value, line)]


def _names(template: str) -> set[str]:
    names = {bare or braced for dollar, bare, braced in _PLACE.findall(template) if not dollar}
    for line in template.splitlines():
        if (own := _IF.fullmatch(line)) is not None:
            names.add(own[1])
        elif (own := _LINES.fullmatch(line)) is not None:
            names.add(own[2])
    return names
