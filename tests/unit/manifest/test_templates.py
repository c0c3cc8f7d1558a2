"""sidecar.manifest.templates: files that are readable as what they become."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import sidecar.manifest
from sidecar.manifest.templates import Value, fill

TEMPLATES = Path(sidecar.manifest.__path__[0]) / "templates"


@pytest.mark.parametrize(
    ("template", "values", "wanted"),
    [
        pytest.param("image: $image\n", {"image": "a:1"}, "image: a:1\n", id="a-value"),
        pytest.param("after: ${seconds}s\n", {"seconds": 7}, "after: 7s\n", id="a-value-before-a-letter"),
        pytest.param("code=$$?; exit $$code\n", {}, "code=$?; exit $code\n", id="a-dollar"),
        pytest.param(
            "a: $a\n", {"a": "$b ${b} $$"}, "a: $b ${b} $$\n", id="what-is-filled-in-stays-as-it-is"
        ),
        pytest.param("env:\n  #: env\n", {"env": "- a\n- b\n"}, "env:\n  - a\n  - b\n", id="lines"),
        pytest.param("  #: text\n", {"text": "a\n\n  b"}, "  a\n\n    b\n", id="an-empty-line-stays-empty"),
        pytest.param("a\n#: none\nb\n", {"none": ""}, "a\nb\n", id="no-lines"),
        pytest.param("a\n  #if on\n  b: $b\n  #end\nc\n", {"on": True, "b": 1}, "a\n  b: 1\nc\n", id="if"),
        pytest.param("#if on\nb\n#else\nc\n#end\n", {"on": None}, "c\n", id="else"),
        pytest.param("#if on\na\n#if too\nb\n#end\n#end\n", {"on": "", "too": True}, "", id="within-another"),
        pytest.param("#if on\n$on\n#end\n", {"on": "why"}, "why\n", id="a-value-is-its-own-condition"),
    ],
)
def test_a_place_is_filled_in(template: str, values: dict[str, Value], wanted: str) -> None:
    assert fill(template, values) == wanted


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("$a $b", {"a": 1}),
        ("$a", {"a": 1, "b": 2}),
        ("#: a", {}),
        ("#if a\n#end", {}),
        ("#if a\n$b\n#end", {"a": False}),
    ],
)
def test_a_name_that_one_side_lacks_is_an_error(template: str, values: dict[str, Value]) -> None:
    with pytest.raises(KeyError):
        fill(template, values)


@pytest.mark.parametrize(("template", "value"), [("a: $a", "b\nc"), ("#if a\nb", True)])
def test_what_would_break_the_file_is_an_error(template: str, value: Value) -> None:
    with pytest.raises(ValueError, match=r"several lines|without its"):
        fill(template, {"a": value})


@pytest.mark.parametrize(
    "file", sorted(TEMPLATES.rglob("*.yaml")), ids=lambda file: str(file.relative_to(TEMPLATES))
)
def test_a_template_can_be_read_as_yaml(file: Path) -> None:
    (document,) = yaml.safe_load_all(file.read_text("utf-8"))
    assert document
