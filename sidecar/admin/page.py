"""The status page: /status.json for people.

Owns the page's frame, the line at its top, the form and the configuration; `rows` has the table of routes, `plots`
the last hour. Called by `pages` with the document that `status` makes. Pure: no I/O and no clock. The page is
complete without scripts and loads nothing from elsewhere. Rules: all values are escaped; the page contains no inline
style or script (Content-Security-Policy); every colour has a word beside it (WCAG 1.4.1); a row that can't be drawn
does not affect the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sidecar.admin.markup import Document, about, escape, notice, prose, time, when
from sidecar.admin.plots import traffic
from sidecar.admin.rows import COLUMNS, ShownRoute, drawn_rows, routes, row_id
from sidecar.admin.status import Note

_NAMED: Final = 5
"""How many routes the line at the top names."""


def sections(document: Document, configuration: str, note: Note) -> dict[str, str]:
    """The parts that change, by the id of their element.

    `note` is called for a row that can't be drawn. `order` is no HTML: it lists the ids of the routes' rows, and the
    page's script sorts the rows by it.
    """
    found = routes(document)
    rows = drawn_rows(found, note)
    return {
        "state": _state(document, found),
        "order": " ".join(rows),
        **rows,
        "traffic": traffic(document),
        "configuration": _configuration(document, configuration),
    }


def _head(document: Document) -> str:
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
</head>"""


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
    body = "\n".join(f'<tbody id="{escape(name)}">{parts[name]}</tbody>' for name in parts["order"].split())
    columns = "".join(
        f'<th scope="col" class="{kind}" title="{title}">{label}</th>' for label, kind, title in COLUMNS
    )
    return f"""{_head(document)}
<body>
<header>
<h1>idtoken-sidecar</h1>
<span class="soft">{escape(str(document["version"]))}</span>
<span class="soft" id="feed" role="status">as of {when(document["now"])}</span>
</header>
<main>
<section id="state" aria-label="State">{parts["state"]}</section>
<section id="routes" aria-label="Routes">
<div class="top"><h2>Routes</h2>
<p class="filter"><label for="filter">Filter</label> <input id="filter" type="search" autocomplete="off"
placeholder="name, URL, credential, reason"> <span id="shown" class="soft" role="status"></span></p></div>
<table><thead><tr>{columns}</tr></thead>
{body}
</table></section>
<section id="traffic" aria-label="The last hour">{parts["traffic"]}</section>
<section id="test" aria-label="Test a request">{_explain(asked, said)}</section>
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
    """A word for the overall state, and its colour."""
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


def _state(document: Document, found: Sequence[ShownRoute]) -> str:
    colour, word = _word(document)
    reload_error = document["configuration"]["last_error"]
    parts = [
        f'<p class="line"><span class="state {colour}">{escape(word)}</span> {_line(found)}</p>',
        f'<p class="soft">Up for {about(document["uptime"])}, configuration read '
        f"{time(document['configuration']['read_at'])}, listening on "
        f"{', '.join(f'<code>{escape(address)}</code>' for address in document['listen']) or 'no shared address'}</p>",
    ]
    parts += [_handout(it) for it in document["handouts"]]
    parts += [notice(prose(reason.partition(" (")[0])) for reason in document["reasons"]]
    if reload_error is not None:
        parts.append(
            notice(
                f"The configuration file was changed {time(reload_error['at'])} and can't be used: the old one stays in "
                f"force.<br><code>{escape(reload_error['detail'])}</code>"
            )
        )
    return "\n".join(parts)


def _handout(it: Document) -> str:
    """A server that gives tokens to programs: its address, its credential, and how many tokens it has given."""
    where = ", ".join(f"<code>{escape(address)}</code>" for address in it["listen"])
    by = f"on {where}" if where else "in tunnels (<code>HTTPS_PROXY</code>)"
    what = [f"{len(it['audiences'])} audience{'s' if len(it['audiences']) != 1 else ''}"]
    if it["scopes"]:
        what.append(f"{len(it['scopes'])} scope{'s' if len(it['scopes']) != 1 else ''}")
    return (
        f"<p><code>{escape(it['server'])}</code> {by} gives programs tokens of credential "
        f"{escape(it['credential'])}, for {' and '.join(what)}: {it['given']} so far, and {it['refused']} requests were "
        "refused</p>"
    )


def _line(every: Sequence[ShownRoute]) -> str:
    """The overall state in words: what is wrong with how many routes, and with which."""
    found = [it for it in every if it.route["name"]]
    of = f"of {len(found)} route{'s' if len(found) != 1 else ''}"
    said = []
    for trouble, one, many in (
        (0, "is refusing requests", "are refusing requests"),
        (1, "has no token", "have no token"),
        (2, "is refused by its target", "are refused by their targets"),
        (3, "has a token that could not be renewed yet", "have tokens that could not be renewed yet"),
    ):
        names = [it.route["name"] for it in found if it.trouble == trouble]
        if names:
            said.append(f"{len(names)} {of} {one if len(names) == 1 else many}: {_linked(names)}.")
    if said:
        return " ".join(said)
    if not found:
        return "There are no routes."
    return "The one route is well." if len(found) == 1 else f"All {len(found)} routes are well."


def _linked(names: Sequence[str]) -> str:
    links = ", ".join(f'<a href="#{row_id(name)}">{escape(name)}</a>' for name in names[:_NAMED])
    return links + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _explain(asked: Document | None, said: Document | None) -> str:
    url = escape(asked["url"]) if asked else ""
    lines = escape(asked["headers"]) if asked else ""
    answer = ""
    if said is not None:
        rows = "".join(
            f"<dt>{escape(key.replace('_', ' '))}</dt><dd>{prose(', '.join(map(str, value)) if isinstance(value, list) else str(value))}</dd>"
            for key, value in said.items()
            if key != "taken"
        )
        verdict = "The sidecar would refuse this request."
        if said["taken"]:
            verdict = (
                "A route takes this request."
                if "route" in said
                else "The sidecar answers this request itself."
            )
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
<details><summary>Read {time(document["configuration"]["read_at"])}, with every default; secrets are hidden</summary>
<pre tabindex="0" role="group" aria-label="Configuration">{escape(configuration)}</pre></details>"""
