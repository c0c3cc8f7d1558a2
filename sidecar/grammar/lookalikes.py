"""Characters that a reader of a path may take for another one.

Owns the tables of Unicode characters that software folds into a dot, a separator or `%`, takes for white space, or
drops. Called by `paths`. Pure. They are written down here and not taken from `unicodedata`: whether a path is refused
must not depend on the version of Python.

Sources: the compatibility decompositions of Unicode 16 (NFKC), the best-fit tables of Windows' code pages, the
confusables of UTS 39, Default_Ignorable_Code_Point and the category Cf of Unicode 16. Letters and digits that only look
like a dot or a slash, such as the katakana no, are in no table: nothing folds them, and names are made of them.
"""

from __future__ import annotations

from typing import Final, final


def _characters(ranges: str) -> frozenset[str]:
    """The characters of `A0 2000-200A`: code points and ranges of them, in hexadecimal."""
    found: set[str] = set()
    for part in ranges.split():
        first, _, last = part.partition("-")
        found.update(map(chr, range(int(first, 16), int(last or first, 16) + 1)))
    return frozenset(found)


CONTROLS: Final = _characters("80-9F 2028-2029")
"""C1, and what separates lines and paragraphs."""

SEPARATORS: Final = _characters(
    # `/`, and what is folded into something with one: ℀ ℁ ℅ ℆, and units and fractions, by way of U+2044 and U+2215.
    "2044 2215 FF0F 2100-2101 2105-2106 BC-BE 2150-215F 2189 33A7-33A8 33AE-33AF 33C6 33DE-33DF"
    # What looks like `/`.
    " 1735 2041 2571 27CB 29F8 2AFB 2AFD 2F03 31D3 1D23A 1F67C"
    # `\`; the yen and the won sign have its place in the code pages 932 and 949.
    " FE68 FF3C 2216 A5 20A9 FFE5-FFE6"
    # What looks like `\`.
    " 2572 27CD 29F5 29F9 2F02 31D4 1D20F 1D23B 1F67D"
    # `;`
    " 37E FE14 FE54 FF1B"
    # `%`, and what looks like it.
    " FE6A FF05 66A 2052 609-60A 2030-2031"
    # `.`, `..` and `...`
    " 2024-2026 FE19 FE30 FE52 FF0E"
)
"""No path has these: a reader may take it apart at one, or decode at one."""

_DOTS: Final = _characters(
    # The full stops of IDNA (UTS 46) and of scripts; middle dots, which code pages fold into one; look-alikes.
    "3002 FF61 FE12 B7 387 2022 2027 2219 22C5 30FB FF65 589 66B 6D4 701-702 1362 166E 1803 1809 2CFE 2E31 2E33 2E3C"
    " A4F8 A4FF A60E 10A50 1D16D"
)
_SEMICOLONS: Final = _characters("61B 1364 204F 236E 2A1F 2A3E 2E35 A6F6")
_SPACES: Final = _characters("A0 1680 2000-200A 202F 205F 3000")
_DROPPED: Final = _characters(
    # Default_Ignorable_Code_Point: soft hyphen, zero-width characters, BOM, variation selectors, tags …
    "AD 34F 61C 115F-1160 17B4-17B5 180B-180F 200B-200F 202A-202E 2060-206F 3164 FE00-FE0F FEFF FFA0 FFF0-FFF8"
    " 1BCA0-1BCA3 1D173-1D17A"  # and _TAGS
    # The rest of Cf.
    " 600-605 6DD 70F 890-891 8E2 FFF9-FFFB 110BD 110CD 13430-1343F"
    # Combining marks, which are dropped to compare without accents.
    " 300-34E 350-36F 1AB0-1AFF 1DC0-1DFF 20D0-20FF FE20-FE2F"
    # Not characters.
    " FDD0-FDEF FFFE-FFFF"
)

_TAGS: Final = range(0xE0000, 0xE1000)
"""Default_Ignorable_Code_Point as well."""


@final
class _ReadAs(dict[int, str]):
    """A table without a line for each of the 4,096 tags: these would take 1 MiB."""

    def __missing__(self, code: int) -> str:
        if code in _TAGS:
            return ""
        raise KeyError(code)


READ_AS: Final = _ReadAs(
    str.maketrans(
        dict.fromkeys(_DROPPED, "")
        | dict.fromkeys(_SPACES, " ")
        | dict.fromkeys(_DOTS, ".")
        | dict.fromkeys(_SEMICOLONS, ";")
    )
)
"""For `str.translate`: what is left to a reader that drops what can't be seen, and folds the rest. Names may have
these: they do harm only where what is left is no name."""
