"""sidecar.admin.markup: nothing that is shown becomes markup."""

from __future__ import annotations

import html

from hypothesis import example, given
from hypothesis import strategies as st

from sidecar.admin.markup import escape


@given(st.text())
@example("<a href='x' title=\"y\">&amp;</a>")
def test_a_text_is_escaped_as_the_library_does_it(text: str) -> None:
    assert escape(text) == html.escape(text)
