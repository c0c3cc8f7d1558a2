"""The status page's table: one row for each route, those in trouble first.

Owns the choice of a route's tokens, traffic and errors, its severity, and its row. Called by `page`. Pure. A row is
three lines of a table: a summary; what is wrong, if anything is; and the details, which open with a click on the
route's name, without a script. The rule: a row that can't be drawn does not affect the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from sidecar.admin.markup import (
    Document,
    about,
    command,
    copyable,
    drawn,
    escape,
    moment,
    notice,
    number,
    prose,
    reason,
    short,
    time,
    when,
)
from sidecar.admin.status import NO_ROUTE, UNSHOWN, Note

_LIFE_WIDTH: Final = 100
"""Steps of a token's bar. An hour's token moves once in 36 s, so its row is sent no more often."""
_TOKENS: Final = 20
"""Most tokens of one route that are shown; a wildcard has one for each host."""

COLUMNS: Final = (
    ("Route", "", "Opens to details"),
    ("Call it by", "", "Base URL for your app"),
    ("Token", "", "Its life: what of it is over, and where it is renewed"),
    ("Req/s", "n", "Requests a second, in the last minute"),
    ("4xx", "n", "Answers in the last minute, the sidecar's own included"),
    ("5xx", "n", "Answers in the last minute, the sidecar's own included"),
    ("p50", "n", "Half of the answers came faster, in the last minute"),
    ("p99", "n", "99 of 100 answers came faster, in the last minute"),
    ("Own", "n", "The sidecar's own share of that, median"),
)

_STATES: Final = {
    "fresh": ("good", "fresh"),
    "stale": ("warn", "being renewed"),
    "fetching": ("warn", "being fetched"),
    "expired": ("bad", "expired"),
    "missing": ("soft", "none yet"),
    "failing": ("bad", "failing"),
}


class ShownRoute(NamedTuple):
    """One route and everything known about it."""

    route: Document
    tokens: Sequence[Document]
    traffic: Document | None
    errors: Sequence[Document]
    trouble: int
    """How bad it is: 0 is worst, `_WELL` best."""


_WELL: Final = 4
_WORDS: Final = (
    ("bad", "refuses requests"),
    ("bad", "no token"),
    ("bad", "target refuses"),
    ("warn", "token not renewed"),
    ("good", "ready"),
)
"""The words for each level of trouble, in order."""


def routes(document: Document) -> list[ShownRoute]:
    """All routes, those in trouble first. Last are the requests that matched no route, if there were any."""
    traffic = {row["name"]: row for row in document["traffic"]["routes"]}
    errors: dict[str, list[Document]] = {}
    for error in document["errors"]:
        errors.setdefault(error.get("route", ""), []).append(error)
    tokens = _by_route(document)
    found = [
        ShownRoute(
            route,
            own := tokens.get(route["name"], ()),
            traffic.get(route["name"]),
            errors.get(route["name"], ()),
            _trouble(route, own),
        )
        for route in document["routes"]
    ]
    found.sort(key=lambda it: it.trouble)
    if "" in errors:
        found.append(ShownRoute({"name": ""}, (), traffic.get(NO_ROUTE), errors[""], _WELL))
    return found


def _by_route(document: Document) -> dict[str, list[Document]]:
    """The tokens of each route: those of its own audience. If the route's upstream follows the request's host, those
    of its credential that belong to no other route.
    """
    names: dict[tuple[object, ...], list[str]] = {}
    following: dict[object, list[str]] = {}
    for route in document["routes"]:
        if "fault" in route or "upstream" not in route:
            continue
        key = (route["credential"], route["audience"], route["token"])
        names.setdefault(key, []).append(route["name"])
        names.setdefault((*key[:2], None), []).append(route["name"])  # of a token that could not be written
        if "{host}" in route["upstream"]:
            following.setdefault(route["credential"], []).append(route["name"])
    found: dict[str, list[Document]] = {}
    for token in document["tokens"]:
        key = (token["credential"], token["audience"], token.get("kind"))
        for name in names.get(key, following.get(key[0], [])):
            found.setdefault(name, []).append(token)
    return found


def _trouble(route: Document, tokens: Iterable[Document]) -> int:
    states = {token.get("state") for token in tokens}
    failed = any(token.get("last_error") for token in tokens)
    if "fault" in route or route.get("refusing"):
        return 0
    if states & {"expired", "failing"}:
        return 1
    if (refusal := route.get("last_refusal")) is not None and not refusal["good_since"]:
        return 2
    return 3 if failed else _WELL


def drawn_rows(found: Sequence[ShownRoute], note: Note) -> dict[str, str]:
    """The lines of each route, by the id of their `tbody`."""
    by_name = {id(it.route): it for it in found}
    lines = drawn((it.route for it in found), lambda route: _row(by_name[id(route)], note), _broken, note)
    return {row_id(it.route["name"]): line for it, line in zip(found, lines, strict=True)}


def row_id(name: str) -> str:
    """The id of a route's part of the table. Names have letters, digits and hyphens."""
    return f"route-{name}" if name else "no-route"


def _broken(route: Document) -> str:
    name = escape(str(route.get("name", "")))
    return f'<tr class="bad"><th scope="row">{name}</th><td colspan="{len(COLUMNS) - 1}">{notice(UNSHOWN, worse=True)}</td></tr>'


def _row(it: ShownRoute, note: Note) -> str:
    if not it.route["name"]:
        return _without_route(it, note)
    route = it.route
    colour, word = _WORDS[it.trouble]
    first = next(iter(it.tokens), None)
    bar = (
        "".join(drawn([first], _life, _broken_token, note))
        if first is not None
        else '<span class="soft">none yet</span>'
    )
    if len(it.tokens) > 1:
        bar += f'<p class="soft">and {len(it.tokens) - 1} more</p>'
    cells = [
        copyable(route["url"]) if route["url"] else _first_way(route),
        bar,
        *_numbers(it.traffic),
    ]
    written = "".join(
        f'<td class="{kind}" data-label="{label}">{cell}</td>'
        for (label, kind, _), cell in zip(COLUMNS[1:], cells, strict=True)
    )
    why = "".join(_wrong(it))
    return f"""<tr class="{colour}"><th scope="row"><details><summary>{escape(route["name"])}</summary></details>
<span class="{colour}">{word}</span></th>{written}</tr>
{f'<tr class="why"><td colspan="{len(COLUMNS)}">{why}</td></tr>' if why else ""}
<tr class="details"><td colspan="{len(COLUMNS)}">{_details(it, note)}</td></tr>"""


def _first_way(route: Document) -> str:
    ways = route["ways_in"]
    return copyable(ways[0]["use"]) if ways else '<span class="soft">–</span>'


def _numbers(traffic: Document | None) -> list[str]:
    recent = traffic["last_minute"] if traffic is not None else None
    if recent is None:
        return ["–"] * 6
    bad = f'<span class="bad">{recent["answers_5xx"]}</span>' if recent["answers_5xx"] else "0"
    return [
        number(recent["requests_per_second"]),
        str(recent["answers_4xx"]),
        bad,
        short(recent["median"]),
        short(recent["p99"]),
        short(recent["own_median"]),
    ]


def _wrong(it: ShownRoute) -> Iterable[str]:
    """What is wrong now, each with its fix; or else the last error."""
    refusing, refusal = it.route["refusing"], it.route["last_refusal"]
    if refusing is not None:
        times = f"{refusing['count']} time{'s' if refusing['count'] != 1 else ''}"
        yield notice(
            f"Refuses requests with {refusing['status']} {reason(refusing['reason'])} since {when(refusing['since'])}, "
            f"{times}, last {time(refusing['last_at'])}: {prose(refusing['detail'])}{command(refusing)}",
            worse=True,
        )
    for token in it.tokens:
        error = token.get("last_error")
        if error is not None and (refusing is None or refusing["reason"] != error["reason"]):
            colour = _STATES.get(token["state"], ("warn", ""))[0]
            yield notice(
                f"Its token: {reason(error['reason'])} {time(error['at'])}: {prose(error['detail'])}{command(error)}",
                worse=colour == "bad",
            )
            break
    if refusal is not None and not refusal["good_since"]:
        yield notice(
            f"The target refused with {refusal['status']} {time(refusal['at'])}: {prose(refusal['detail'])}"
            f"{command(refusal)}",
            worse=True,
        )
    if it.trouble == _WELL and it.errors and "fault" not in it.errors[0]:
        error = it.errors[0]
        yield (
            f'<p class="soft">Last error {time(error["last_at"])}: {reason(error["reason"])}. {prose(error["detail"])}'
            f"{command(error)}</p>"
        )


def _details(it: ShownRoute, note: Note) -> str:
    route = it.route
    ways = "\n".join(f"<li>{copyable(way['use'])}</li>" for way in route["ways_in"])
    refusal = route["last_refusal"]
    said = ""
    if refusal is not None and refusal["good_since"]:
        good = refusal["good_since"]
        said = (
            f'<p class="soft">The target refused with {refusal["status"]} {time(refusal["at"])} '
            f"({escape(refusal['reason'])}), and has given {good} good answer{'s' if good != 1 else ''} since.</p>"
        )
    lives = drawn(it.tokens[1 : _TOKENS + 1], _named_life, _broken_token, note)
    more = len(it.tokens) - 1 - _TOKENS
    if more > 0:
        lives.append(f'<p class="soft">and {more} more, in <a href="/status.json">status.json</a></p>')
    return f"""<dl>
<dt>goes to</dt><dd><code>{escape(route["upstream"])}</code> ({escape(route["target"])})</dd>
<dt>{escape(route["token"])} token</dt><dd>by credential {escape(route["credential"])}, for <code>{escape(route["audience"])}</code></dd>
<dt>since the start</dt><dd>{_since_start(it.traffic)}</dd>
<dt>connections</dt><dd>{_connections(it.traffic)}</dd>
</dl>{"".join(lives)}
<h3>Ways in</h3><ul class="ways">{ways}</ul>
{said}{_errors(it.errors, note)}"""


def _since_start(traffic: Document | None) -> str:
    if traffic is None:
        return "no requests"
    return (
        f"{traffic['requests']} request{'s' if traffic['requests'] != 1 else ''} ({traffic['http2']} in HTTP/2), {traffic['in_flight']} in flight; {traffic['refused']} answered by the sidecar "
        f"itself, {traffic['upstream_4xx']} with 4xx and {traffic['upstream_5xx']} with 5xx by the target"
    )


def _connections(traffic: Document | None) -> str:
    """The connections to the target, by protocol."""
    if traffic is None:
        return "none"
    told = []
    for key, name in (("http1", "HTTP/1.1"), ("http2", "HTTP/2")):
        links = traffic["links"][key]
        if links["busy"] or links["idle"]:
            streams = f" with {links['streams']} requests" if key == "http2" else ""
            told.append(f"{name}: {links['busy']} busy{streams}, {links['idle']} idle")
    return "; ".join(told) or "none"


def _errors(errors: Sequence[Document], note: Note) -> str:
    if not errors:
        return ""
    items = "".join(drawn(errors, _error, lambda _: f"<li>{UNSHOWN}</li>", note))
    return f"<h3>The sidecar's own answers</h3><ul>{items}</ul>"


def _error(error: Document) -> str:
    times = f"{error['count']} time{'s' if error['count'] != 1 else ''}"
    return (
        f"<li>{error['status']} {reason(error['reason'])}, {times}, first {time(error['first_at'])}, last "
        f"{time(error['last_at'])}: {prose(error['detail'])}{command(error)}</li>"
    )


def _without_route(it: ShownRoute, note: Note) -> str:
    written = "".join(
        f'<td class="n" data-label="{label}">{cell}</td>'
        for (label, _, _), cell in zip(COLUMNS[3:], _numbers(it.traffic), strict=True)
    )
    return f"""<tr class="warn"><th scope="row">no route</th><td colspan="2" class="soft">requests without a route</td>{written}</tr>
<tr class="why"><td colspan="{len(COLUMNS)}">{_errors(it.errors, note)}</td></tr>"""


def _broken_token(_: Document) -> str:
    return f'<p class="bad">{UNSHOWN}</p>'


def _named_life(token: Document) -> str:
    return f"<div class='token'><code>{escape(token['audience'])}</code>{_life(token)}</div>"


def _life(token: Document) -> str:
    """A token's life as a bar: the part that is over, and the point of renewal."""
    colour, word = _STATES.get(token["state"], ("warn", token["state"]))
    waiting = f", {token['waiting']} requests wait" if token["waiting"] else ""
    said = f'<span class="{colour}">{escape(word)}</span>{waiting}'
    left = token["expires_in"]
    if left is None or token["expires_at"] is None:
        return f"<p>{said}</p>"
    expires = moment(token["expires_at"])
    now = expires - left
    begins = moment(token["issued_at"]) if token["issued_at"] else now
    whole = max(expires - begins, 1.0)
    over = _share((now - begins) / whole)
    renew = None if token["renew_at"] is None else moment(token["renew_at"])
    shade = "late" if left <= 0 else "fresh" if renew is None or now < renew else "stale"
    mark = ""
    text = f"expires in {about(left)}" if left > 0 else f"expired {about(-left)} ago"
    if renew is not None:
        x = round(_LIFE_WIDTH * _share((renew - begins) / whole))
        mark = f'<line class="mark" x1="{x}" x2="{x}" y1="0" y2="18"/>'
        text += f", renewed in {about(renew - now)}" if renew > now else ", to be renewed now"
    return (
        f'<svg class="life" viewBox="0 0 {_LIFE_WIDTH} 18" preserveAspectRatio="none" role="img" aria-label="{text}">'
        f'<rect class="track" y="4" width="{_LIFE_WIDTH}" height="10"/>'
        f'<rect class="{shade}" y="4" width="{round(_LIFE_WIDTH * over)}" height="10"/>{mark}</svg>'
        f'<p class="small">{said} <span class="soft">{text}</span></p>'
    )


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
