"""docs/conformance-http2.md: what the sidecar, Envoy and nghttpx do with every case of the tables of HTTP/2.

Owns the page's words. Made from the tables and verdicts.json, so that it can be held against them without a peer;
`python -m tests.conformance.http2.page` writes it again. Pure but for that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.conformance.http2.answers import ANSWERS, BARE, EITHER, FLOODS
from tests.conformance.http2.attacks import ATTACKS
from tests.conformance.http2.cost import HONEST, MEMORY
from tests.conformance.http2.heads import HEADS, PASSES, REFUSED
from tests.conformance.http2.record import TABLES, Record, load
from tests.conformance.http2.sections import MISSES, SECTIONS, Section

PAGE: Final = Path(__file__).parents[3] / "docs" / "conformance-http2.md"
PEERS: Final = {"envoy": "Envoy", "nghttpx": "nghttpx"}

_HEAD: Final = """\
# Conformance: HTTP/2 beside Envoy and nghttpx

Every case of `tests/conformance/http2`: {sections} of RFC 9113's and RFC 7541's sections, {heads} requests that are malformed or
nearly so, {answers} such answers of a target, and {floods} floods and bombs, from both sides; with what the sidecar, Envoy {envoy}
and nghttpx (nghttp2 {nghttpx}) do. `make test` plays all of them against the sidecar, as frames over sockets, and the heads and answers
once more bridged to and from HTTP/1.1; `make compare-peers` plays them against the two peers and writes this page.
[Hostile bytes](conformance.md) has HTTP/1.1.

## How to read it

- **A status** is the proxy's own answer. `RST_STREAM(…)`: it ended the stream. `GOAWAY(…)`: it ended the connection, with this code;
  `closes`: without one that names an error. `ignores`: it went on as if nothing had been. `waits`: nothing came, not even the answer
  to a PING.
- **forwards**: one request reached the target. `ambiguous`: what reached the other side breaks the grammar. **passes on**: the app got
  one whole answer. **refused**: a 400, a 431 or a 502, or RST_STREAM; the connection goes on. **absorbs**: it took all of a flood;
  `holds`: it stopped to read. **bounded**: it may take all of it, and costs no more CPU than {honest:,} honest requests, and no more
  than {memory} MiB. **ends**: it ends the connection, and is bounded so until then.
- In the sections, **as the RFC says** is any outcome that the RFC permits: a connection error may be told by closing alone, and a stream
  error may end the connection (sections 5.4.1 and 5.4.2). A peer's outcome that is none of them is in italics.

[h2spec](https://github.com/summerwind/h2spec), run by hand, counts 138 of its 146 cases as passed, and skips one. The other seven: the five
that libnghttp2 ignores below (5.1 and 5.1.1); first bytes that are neither the preface nor HTTP/1.1, which get a 400 in HTTP/1.1,
since the port speaks both; and a stream's window above 2^31−1, for which the whole connection ends.

The peers have all defaults but these: plaintext HTTP/2 on both sides, one worker; Envoy also `use_remote_address` and
`headers_with_underscores_action: REJECT_REQUEST`.
"""


def _summary(record: Record) -> str:
    lines = ["| | the sidecar | Envoy | nghttpx |", "| --- | ---: | ---: | ---: |"]

    def row(title: str, own: int, counts: dict[str, int]) -> None:
        lines.append(f"| {title} | {own} | {' | '.join(str(counts[peer]) for peer in PEERS)} |")

    row(
        f"sections kept, of {len(SECTIONS)}",
        len(SECTIONS) - len(MISSES),
        {
            peer: sum(record["sections"][case.name][peer] in case.allowed for case in SECTIONS)
            for peer in PEERS
        },
    )
    bad = [case.name for case in HEADS if case.verdict != PASSES]
    row(
        f"malformed requests forwarded, of {len(bad)}",
        0,
        {peer: sum("forwards" in record["heads"][name][peer] for name in bad) for peer in PEERS},
    )
    bad = [case.name for case in ANSWERS if case.verdict == REFUSED]
    row(
        f"malformed answers passed on, of {len(bad)}",
        0,
        {peer: sum("passes on" in record["answers"][name][peer] for name in bad) for peer in PEERS},
    )
    row(
        f"floods taken to the end, of {len(ATTACKS) + len(FLOODS)}",
        sum(not case.must_end for case in (*ATTACKS, *FLOODS)),
        {
            peer: sum(
                entry[peer] == "absorbs"
                for table in ("attacks", "floods")
                for entry in record[table].values()
            )
            for peer in PEERS
        },
    )
    return "\n".join(lines) + "\n"


def _table(title: str, rows: list[tuple[str, ...]]) -> str:
    lines = [f"## {title}\n", "| case | | sidecar | Envoy | nghttpx |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _of_a_section(case: Section, found: str) -> str:
    return found if found in case.allowed else f"*{found}*"


def _own(verdict: str) -> str:
    return {PASSES: "passes", EITHER: "either", BARE: "passes without its body"}.get(verdict, "refused")


def render(record: Record) -> str:
    """The page."""
    counts = {table: len(cases) for table, cases in TABLES.items()}
    floods = counts["attacks"] + counts["floods"]
    known = {
        **counts,
        "floods": floods,
        **record["versions"]["peers"],
        "honest": int(HONEST),
        "memory": MEMORY >> 20,
    }

    def peers(table: str, name: str) -> tuple[str, ...]:
        return tuple(record[table][name][peer] for peer in PEERS)

    sections = [
        (
            case.name,
            case.what,
            f"misses: {MISSES[case.name]}" if case.name in MISSES else "as the RFC says",
            *(_of_a_section(case, found) for found in peers("sections", case.name)),
        )
        for case in SECTIONS
    ]
    heads = [(case.name, case.why, _own(case.verdict), *peers("heads", case.name)) for case in HEADS]
    answers = [(case.name, case.why, _own(case.verdict), *peers("answers", case.name)) for case in ANSWERS]
    attacks = [
        (case.name, case.what, "ends" if case.must_end else "bounded", *peers(table, case.name))
        for table, cases in (("attacks", ATTACKS), ("floods", FLOODS))
        for case in cases
    ]
    return "\n".join(
        [
            "<!-- Generated by `make compare-peers` from tests/conformance/http2; `python -m tests.conformance.http2.page` writes it again. -->\n",
            _HEAD.format(**known),
            "## Summary\n",
            _summary(record),
            _table("Sections", sections),
            _table("Requests", heads),
            _table("Answers", answers),
            _table("Floods of an app", attacks[: len(ATTACKS)]),
            _table("Floods of a target", attacks[len(ATTACKS) :]),
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(render(load()))
