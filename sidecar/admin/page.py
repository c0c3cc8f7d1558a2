"""The status page: what /status.json says, for people.

Owns the page's words and shapes. Called by `app` with the document that `status` makes. Pure: no I/O and no clock; it is
whole without scripts and without anything from elsewhere. Rules: everything that is not written here is escaped; no
style and no script stands in the page itself (Content-Security-Policy); what a colour says, a word says too (WCAG 1.4.1);
a row that can't be drawn takes no other along.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any, Final
from urllib.parse import quote

from sidecar.admin.status import UNSHOWN, Note
from sidecar.errors import MEANINGS
from sidecar.grammar.moments import in_words

Document = Mapping[str, Any]

_CODE: Final = re.compile(r"`([^`]+)`")
_SHOWN_TOKENS: Final = 100
_LIFE_WIDTH: Final = 1000
_PLOT: Final = (300, 60)

_STATES: Final = {
    "fresh": ("good", "fresh"),
    "stale": ("warn", "being renewed"),
    "fetching": ("warn", "being fetched"),
    "expired": ("bad", "expired"),
    "missing": ("bad", "missing"),
    "failing": ("bad", "failing"),
}


def sections(document: Document, configuration: str, note: Note) -> dict[str, str]:
    """The parts that change, by the id of their element; `note` is called for a row that can't be drawn."""
    return {
        "state": _state(document),
        "routes": _routes(document["routes"], note),
        "tokens": _tokens(document["tokens"], note),
        "traffic": _traffic(document),
        "errors": _errors(document, note),
        "configuration": _configuration(document, configuration),
    }


def page(
    document: Document,
    configuration: str,
    note: Note,
    *,
    asked: Document | None = None,
    said: Document | None = None,
) -> str:
    """The whole page; `asked` and `said` are a question to `explain` and its answer."""
    parts = sections(document, configuration, note)
    body = "\n".join(
        f'<section id="{name}" aria-label="{label}">{parts[name]}</section>'
        for name, label in (
            ("state", "State"),
            ("routes", "Routes"),
            ("tokens", "Tokens"),
            ("traffic", "Traffic"),
            ("errors", "Errors"),
        )
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>idtoken-sidecar: {escape(_word(document)[1])}</title>
<link rel="stylesheet" href="/page.css">
<link rel="icon" href="data:,">
<script src="/page.js" defer></script>
<noscript><meta http-equiv="refresh" content="10"></noscript>
</head>
<body>
<header>
<h1>idtoken-sidecar</h1>
<span class="soft">{escape(str(document["version"]))}</span>
<span class="soft" id="feed" role="status">as of {_time(document["now"])}</span>
</header>
<main>
{body}
<section aria-label="Explain">{_explain(asked, said)}</section>
<section id="configuration" aria-label="Configuration">{parts["configuration"]}</section>
<p class="soft" id="said" role="status"></p>
</main>
<footer><nav aria-label="Other pages">
<a href="/status.json">status.json</a> · <a href="/metrics">metrics</a> · <a href="/healthz/ready">ready</a> ·
<a href="/healthz/live">live</a> · <a href="/healthz/startup">startup</a>
</nav></footer>
</body>
</html>
"""


def _word(document: Document) -> tuple[str, str]:
    """What to say of the whole, and in which colour."""
    if document["draining"]:
        return "warn", "shutting down"
    if not document["ready"]:
        return "bad", "not ready"
    if any(route.get("refusing") for route in document["routes"]):
        return "bad", "ready, but routes refuse requests"
    if any(token.get("state") in ("expired", "missing", "failing") for token in document["tokens"]):
        return "bad", "ready, but tokens are missing"
    if document["configuration"]["last_error"] is not None:
        return "warn", "ready, with the old configuration"
    return "good", "ready"


def _state(document: Document) -> str:
    colour, word = _word(document)
    reload_error = document["configuration"]["last_error"]
    parts = [
        f'<p><span class="state {colour}">{escape(word)}</span> up for {in_words(document["uptime"])}, '
        f"configuration read {_time(document['configuration']['read_at'])}, listening on "
        f"{', '.join(f'<code>{escape(address)}</code>' for address in document['listen']) or 'no shared address'}</p>"
    ]
    parts += [_handout(it) for it in document["handouts"]]
    parts += [_notice(_prose(reason.partition(" (")[0])) for reason in document["reasons"]]
    if reload_error is not None:
        parts.append(
            _notice(
                f"The configuration file was changed {_time(reload_error['at'])} and can't be used: the old one stays in "
                f"force.<br><code>{escape(reload_error['detail'])}</code>"
            )
        )
    return "\n".join(parts)


def _handout(it: Document) -> str:
    """A server that gives tokens to programs: where, of what, and how often."""
    where = ", ".join(f"<code>{escape(address)}</code>" for address in it["listen"])
    what = [f"{len(it['audiences'])} audience{'s' if len(it['audiences']) != 1 else ''}"]
    if it["scopes"]:
        what.append(f"{len(it['scopes'])} scope{'s' if len(it['scopes']) != 1 else ''}")
    return (
        f"<p><code>{escape(it['server'])}</code> on {where} gives programs tokens of credential "
        f"{escape(it['credential'])}, for {' and '.join(what)}: {it['given']} so far, and {it['refused']} requests were "
        "refused</p>"
    )


def _notice(html: str, *, worse: bool = False) -> str:
    return f'<p class="notice{" worse" if worse else ""}">{html}</p>'


def _drawn(
    rows: Iterable[Document], draw: Callable[[Document], str], broken: Callable[[Document], str], note: Note
) -> str:
    """Each row by itself; for one that can't be drawn, or could not be written, what is `broken`."""
    drawn = []
    for row in rows:
        try:
            drawn.append(broken(row) if "fault" in row else draw(row))
        except Exception as fault:  # noqa: BLE001  # logged and counted by `note`, and told in the row's place
            note(fault, "status page")
            drawn.append(broken(row))
    return "\n".join(drawn)


def _broken_card(row: Document) -> str:
    name = str(row.get("name") or row.get("audience") or "")
    return f'<article class="card"><div class="top"><h3>{escape(name)}</h3></div>{_notice(UNSHOWN, worse=True)}</article>'


def _broken_line(row: Document) -> str:
    return f"<tr><td>{escape(str(row.get('route', '')))}</td>{'<td></td>' * 5}<td>{UNSHOWN}</td></tr>"


def _routes(routes: Sequence[Document], note: Note) -> str:
    cards = _drawn(routes, _route, _broken_card, note)
    return f'<h2>Routes</h2>\n<div class="cards">{cards}</div>'


def _route(route: Document) -> str:
    refusal = route["last_refusal"]
    ways = "\n".join(_way(way) for way in route["ways_in"])
    refused = "" if refusal is None else _target_refused(refusal)
    refusing = route["refusing"]
    mark, why = "", ""
    if refusing is not None:
        mark = '<span class="bad">refuses requests</span>'
        times = f"{refusing['count']} time{'s' if refusing['count'] != 1 else ''}"
        why = _notice(
            f"Since {_when(refusing['since'])}, {times}, last "
            f"{_time(refusing['last_at'])}, requests are answered {refusing['status']} {_reason(refusing['reason'])}: "
            f"{_prose(refusing['detail'])}" + _command(refusing),
            worse=True,
        )
    return f"""<article class="card{" refusing" if refusing is not None else ""}">
<div class="top"><h3>{escape(route["name"])}</h3>{mark}<span class="soft">{escape(route["target"])}</span></div>
{why}<dl>
<dt>goes to</dt><dd><code>{escape(route["upstream"])}</code></dd>
<dt>{escape(route["token"])} token</dt><dd>by credential {escape(route["credential"])}, for <code>{escape(route["audience"])}</code></dd>
</dl>
<ul class="ways" aria-label="How to reach {escape(route["name"])}">{ways}</ul>
{refused}</article>"""


def _target_refused(refusal: Document) -> str:
    """In red while nothing better has come from the target since."""
    said = f"refused with {refusal['status']} {_time(refusal['at'])}"
    good = refusal["good_since"]
    if good:
        answers = f"{good} good answer{'s' if good != 1 else ''}"
        return f'<p class="soft">The target {said} ({escape(refusal["reason"])}), and has given {answers} since.</p>'
    return _notice(f"The target {said}: {_prose(refusal['detail'])}" + _command(refusal), worse=True)


def _way(way: Document) -> str:
    use = escape(way["use"])
    return (
        f'<li><code>{use}</code><button type="button" class="copy" data-text="{use}" '
        f'aria-label="Copy {use}">Copy</button></li>'
    )


def _tokens(tokens: Sequence[Document], note: Note) -> str:
    if not tokens:
        return "<h2>Tokens</h2>\n<p>None yet. The sidecar fetches a token when it is first needed.</p>"
    cards = _drawn(tokens[:_SHOWN_TOKENS], _token, _broken_card, note)
    more = len(tokens) - _SHOWN_TOKENS
    rest = (
        f'<p class="soft">and {more} more, in <a href="/status.json">status.json</a></p>' if more > 0 else ""
    )
    return f'<h2>Tokens</h2>\n<div class="cards">{cards}</div>{rest}'


def _token(token: Document) -> str:
    colour, word = _STATES.get(token["state"], ("warn", token["state"]))
    error = token["last_error"]
    failed = ""
    if error is not None:
        failed = _notice(
            f"{_reason(error['reason'])} {_time(error['at'])}: {_prose(error['detail'])}" + _command(error),
            worse=colour == "bad",
        )
    waiting = f", {token['waiting']} requests wait for it" if token["waiting"] else ""
    return f"""<article class="card">
<div class="top"><h3><code>{escape(token["audience"])}</code></h3><span class="{colour}">{escape(word)}</span></div>
<p class="soft">{escape(token["kind"])} token by credential {escape(token["credential"])}{waiting}</p>
{_life(token)}{failed}</article>"""


def _life(token: Document) -> str:
    """A token's life as a bar: what of it is over, and where it is renewed."""
    left = token["expires_in"]
    if left is None or token["expires_at"] is None:
        return ""
    expires = _moment(token["expires_at"])
    now = expires - left
    begins = _moment(token["issued_at"]) if token["issued_at"] else now
    whole = max(expires - begins, 1.0)
    over = _share((now - begins) / whole)
    renew = None if token["renew_at"] is None else _moment(token["renew_at"])
    shade = "late" if left <= 0 else "fresh" if renew is None or now < renew else "stale"
    mark = ""
    text = f"expires in {in_words(left)}" if left > 0 else f"expired {in_words(-left)} ago"
    if renew is not None:
        x = round(_LIFE_WIDTH * _share((renew - begins) / whole))
        mark = f'<line class="mark" x1="{x}" x2="{x}" y1="0" y2="18"/>'
        text += f", renewed in {in_words(renew - now)}" if renew > now else ", to be renewed now"
    return (
        f'<svg class="life" viewBox="0 0 {_LIFE_WIDTH} 18" preserveAspectRatio="none" role="img" aria-label="{text}">'
        f'<rect class="track" y="4" width="{_LIFE_WIDTH}" height="10"/>'
        f'<rect class="{shade}" y="4" width="{round(_LIFE_WIDTH * over)}" height="10"/>{mark}</svg>'
        f"<p>{text}</p>"
    )


def _traffic(document: Document) -> str:
    samples = document["traffic"]["samples"]
    plots = "\n".join(
        (
            _plot(
                "Requests a second",
                [
                    ("", "requests", _column(samples, "requests_per_second")),
                    ("errors", "5xx", _column(samples, "errors_per_second")),
                ],
                _number,
            ),
            _plot(
                "Duration, with the service",
                [("", "median", _column(samples, "median")), ("second", "99 %", _column(samples, "p99"))],
                _short,
            ),
            _plot(
                "Duration, the sidecar's own share", [("", "median", _column(samples, "own_median"))], _short
            ),
        )
    )
    rows = "\n".join(
        f'<tr><th scope="row">{escape(route["name"])}</th><td>{route["requests"]}</td><td>{route["in_flight"]}</td>'
        f"<td>{route['refused']}</td><td>{route['upstream_4xx']}</td><td>{route['upstream_5xx']}</td></tr>"
        for route in document["traffic"]["routes"]
    )
    minutes = round(document["traffic"]["interval"] * max(len(samples), 1) / 60) or 1
    return f"""<h2>Traffic</h2>
<p class="soft">The last {minutes} minute{"s" if minutes > 1 else ""}.</p>
<div class="cards">{plots}</div>
<div class="scroll"><table><thead><tr><th scope="col">route</th><th scope="col">requests</th><th scope="col">in flight</th>
<th scope="col">answered by the sidecar itself</th><th scope="col">4xx of the upstream</th>
<th scope="col">5xx of the upstream</th></tr></thead><tbody>{rows}</tbody></table></div>"""


def _plot(
    title: str, lines: Sequence[tuple[str, str, Sequence[float | None]]], spell: Callable[[float], str]
) -> str:
    top = max((value for _, _, values in lines for value in values if value is not None), default=0.0)
    latest = ", ".join(
        f"{name} {spell(values[-1])}" for _, name, values in lines if values and values[-1] is not None
    )
    paths = "".join(
        f'<path class="line {kind}" d="{_path(values, top)}"/>' for kind, _, values in lines if values
    )
    width, height = _PLOT
    return f"""<div class="card"><div class="top"><h3>{title}</h3><span class="soft">up to {spell(top)}</span></div>
<svg class="plot" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{title}: now {latest or "nothing"}, up to {spell(top)}">{paths}</svg>
<p>{f"now: {latest}" if latest else "no requests now"}</p></div>"""


def _path(values: Sequence[float | None], top: float) -> str:
    width, height = _PLOT
    step = width / max(len(values) - 1, 1)
    drawn, pen = [], "M"
    for index, value in enumerate(values):
        if value is None:
            pen = "M"
            continue
        y = height - 2 - (height - 4) * (value / top if top > 0 else 0.0)
        # A point that stands alone is drawn too: as a line of no length, with round ends.
        drawn.append(f"{pen}{index * step:.1f} {y:.1f}" + ("h0" if pen == "M" else ""))
        pen = "L"
    return "".join(drawn)


def _errors(document: Document, note: Note) -> str:
    recent = document["errors"]
    if not recent:
        return "<h2>Errors</h2>\n<p>None. The sidecar has made no answers of its own.</p>"
    rows = _drawn(recent, _error, _broken_line, note)
    return f"""<h2>Errors</h2>
<p class="soft">Answers that the sidecar made itself, by route and reason.</p>
<div class="scroll"><table><thead><tr><th scope="col">route</th><th scope="col">count</th><th scope="col">first</th>
<th scope="col">last</th><th scope="col">status</th><th scope="col">reason</th><th scope="col">what to do</th></tr></thead><tbody>{rows}</tbody></table></div>"""


def _error(error: Document) -> str:
    return (
        f"<tr><td>{escape(error['route']) or 'no route'}</td><td>{error['count']}</td><td>{_time(error['first_at'])}</td>"
        f"<td>{_time(error['last_at'])}</td><td>{error['status']}</td>"
        f"<td>{_reason(error['reason'])}</td><td>{_prose(error['detail'])}{_command(error)}</td></tr>"
    )


def _explain(asked: Document | None, said: Document | None) -> str:
    url = escape(asked["url"]) if asked else ""
    lines = escape(asked["headers"]) if asked else ""
    answer = ""
    if said is not None:
        rows = "".join(
            f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{_prose(_listed(value))}</dd>"
            for key, value in said.items()
            if key != "taken"
        )
        verdict = "A route takes this request." if said["taken"] else "The sidecar would refuse this request."
        answer = f'<p role="status" class="{"good" if said["taken"] else "bad"}">{verdict}</p><dl>{rows}</dl>'
    return f"""<h2 id="explain">Test a request</h2>
<form method="post" action="/explain#explain">
<label for="url">URL that the app calls</label>
<input id="url" name="url" value="{url}" placeholder="http://billing.localhost:8787/invoices" required maxlength="2000">
<label for="headers">Its headers, one a line</label>
<textarea id="headers" name="headers" rows="2" maxlength="8000" placeholder="Authorization: Basic eA==">{lines}</textarea>
<button>Explain</button>
</form>
{answer}"""


def _configuration(document: Document, configuration: str) -> str:
    return f"""<h2>Configuration in use</h2>
<details><summary>Read {_time(document["configuration"]["read_at"])}, with every default; secrets are hidden</summary>
<pre tabindex="0" role="group" aria-label="Configuration">{escape(configuration)}</pre></details>"""


def _prose(text: str) -> str:
    """A sentence of ours, with what is `quoted so` as code."""
    return _CODE.sub(r"<code>\1</code>", escape(text))


def _reason(reason: str) -> str:
    known = next((meaning.title for key, meaning in MEANINGS.items() if key == reason), "")
    return f"<code>{escape(reason)}</code>" + (f" {escape(known)}" if known else "")


def _command(problem: Document) -> str:
    """The line of shell that fixes it, unless the sentence before has it already."""
    command = problem["command"]
    return f"<br><code>$ {escape(command)}</code>" if command and command not in problem["detail"] else ""


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _column(samples: Iterable[Document], name: str) -> list[float | None]:
    return [sample[name] for sample in samples]


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _time(text: str) -> str:
    """A moment as the document has it, for people: the date is in the title."""
    return _when(text, "at ")


def _when(text: str, before: str = "") -> str:
    return f'<time datetime="{quote(text, safe=":-.+")}" title="{escape(text)}">{before}{escape(text[11:19])} UTC</time>'


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _short(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"
