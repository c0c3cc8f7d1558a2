"""Google's own error pages, and the headers of its front ends.

Owns the two pages that people see in place of a service's answer, and the answers to what no handler sees. The plain
page is the serverless front end's (Cloud Run, functions, App Engine); every other front end and the metadata server
give the one with the robot. Used by all servers of the stand-in; knows none of them. Sources: real answers that people
pasted in public issues. The robot's page is complete in https://github.com/googleapis/gcp-metadata/issues/657 (a
metadata server's 404, with its headers), the plain one in https://github.com/ahmetb/runsd/issues/25 and
https://github.com/datacommonsorg/docsite/pull/463.

What the front ends can't read, they refuse themselves, with the same pages: with no `Server`, with a Referrer-Policy,
and in HTTP/1.0. The whole answer with the robot is in https://github.com/litespeedtech/lsquic/issues/465, its status
line in https://github.com/Kong/insomnia/issues/1483; the plain one with its head in
https://github.com/coreruleset/go-ftw/issues/134, its text of a 400 in
https://github.com/the-blue-alliance/the-blue-alliance/issues/1054.
"""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE, HttpVersion10
from aiohttp.typedefs import Handler, Middleware

_PHRASES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Request Entity Too Large",
    414: "Request-URI Too Large",
    500: "Server Error",
    503: "Server Error",
}
_HTML: Final = {"Content-Type": "text/html; charset=UTF-8"}
_LOGO: Final = "//www.google.com/images/branding/googlelogo"
_STYLE: Final = (
    "*{margin:0;padding:0}html,code{font:15px/22px arial,sans-serif}html{background:#fff;color:#222;padding:15px}"
    "body{margin:7% auto 0;max-width:390px;min-height:180px;padding:30px 0 15px}"
    "* > body{background:url(//www.google.com/images/errors/robot.png) 100% 5px no-repeat;padding-right:205px}"
    "p{margin:11px 0 22px;overflow:hidden}ins{color:#777;text-decoration:none}a img{border:0}"
    "@media screen and (max-width:772px){body{background:none;margin-top:0;max-width:none;padding-right:0}}"
    f"#logo{{background:url({_LOGO}/1x/googlelogo_color_150x54dp.png) no-repeat;margin-left:-5px}}"
    "@media only screen and (min-resolution:192dpi){#logo{"
    f"background:url({_LOGO}/2x/googlelogo_color_150x54dp.png) no-repeat 0% 0%/100% 100%;"
    f"-moz-border-image:url({_LOGO}/2x/googlelogo_color_150x54dp.png) 0}}}}"
    "@media only screen and (-webkit-min-device-pixel-ratio:2){#logo{"
    f"background:url({_LOGO}/2x/googlelogo_color_150x54dp.png) no-repeat;-webkit-background-size:100% 100%}}}}"
    "#logo{display:inline-block;height:54px;width:150px}"
)


def robot(status: int, text: str) -> str:
    """The page with the robot; `text` is HTML."""
    return (
        "<!DOCTYPE html>\n<html lang=en>\n  <meta charset=utf-8>\n"
        '  <meta name=viewport content="initial-scale=1, minimum-scale=1, width=device-width">\n'
        f"  <title>Error {status} ({_PHRASES[status]})!!1</title>\n  <style>\n    {_STYLE}\n  </style>\n"
        "  <a href=//www.google.com/><span id=logo aria-label=Google></span></a>\n"
        f"  <p><b>{status}.</b> <ins>That’s an error.</ins>\n"
        f"  <p>{text}  <ins>That’s all we know.</ins>\n"
    )


def not_found(path: str) -> str:
    """The robot's page for a path that there is not."""
    return robot(404, reason(404, "", path))


def not_allowed(method: str, path: str) -> str:
    """The robot's page for a method that the path does not take."""
    return robot(405, reason(405, method, path))


def reason(status: int, method: str, path: str) -> str:
    """What the pages say of a request that no handler takes, in HTML. Sources beside those above: 413 with a head that
    is too long (its script clears cookies) https://github.com/zhaofengli/attic/issues/220, 414
    https://github.com/mohamedmansour/extended-share-extension/issues/36.
    """
    code = f"<code>{html.escape(path)}</code>"
    match status:
        case 404:
            return f"The requested URL {code} was not found on this server."
        case 405:
            return (
                f"The request method <code>{html.escape(method)}</code> is inappropriate for the URL {code}."
            )
        case 413:
            return "Your client issued a request that was too large."
        case 414:
            return f"The requested URL {code} is too large to process."
        case 500:
            words = "The server encountered an error and could not complete your request."
            return f"{words}<p>Please try again in 30 seconds."
    return "Your client has issued a malformed or illegal request."


def plain(status: int, phrase: str, text: str) -> web.Response:
    """The serverless front end's page: `text` is HTML."""
    page = (
        '\n<html><head>\n<meta http-equiv="content-type" content="text/html;charset=utf-8">\n'
        f"<title>{status} {phrase}</title>\n</head>\n<body text=#000000 bgcolor=#ffffff>\n"
        f"<h1>Error: {phrase}</h1>\n<h2>{text}</h2>\n<h2></h2>\n</body></html>\n"
    )
    return web.Response(status=status, reason=phrase, body=page.encode(), headers=_HTML)


class Manner(NamedTuple):
    """How a server answers, whatever it is asked."""

    server: str | None
    """Its `Server`; None: it has none."""
    refusal: Callable[[int, str, str], web.Response]
    """Its answer of a status to what no handler takes: a method, and a path."""
    version: str = "HTTP/1.1"
    """What the status line begins with, where it can't read the request."""
    unread: Mapping[str, str] = {"Connection": "close"}
    """Further headers in that case."""
    is_front_end: bool = False
    """Whether it is one of Google's front ends, which let no GET with a body through."""


def _robot_refusal(status: int, method: str, path: str) -> web.Response:
    page = robot(status, reason(status, method, path))
    return web.Response(status=status, reason=_PHRASES[status], body=page.encode(), headers=_HTML)


def _plain_refusal(status: int, method: str, path: str) -> web.Response:
    return plain(status, _PHRASES[status], reason(status, method, path))


def _bare_refusal(status: int, method: str, path: str) -> web.Response:
    return web.Response(status=status, reason=_PHRASES[status], text=f"{_PHRASES[status]}\n")


_UNREAD: Final = {"Referrer-Policy": "no-referrer"}
APIS: Final = Manner("ESF", _robot_refusal, "HTTP/1.0", _UNREAD, is_front_end=True)
"""Google's APIs (https://github.com/s3ql/s3ql/issues/99)."""
TOKENS: Final = APIS._replace(server="scaffolding on HTTPServer2")
"""The token endpoint (a whole answer is in pull request 2 of blobfile on GitHub)."""
FRONT_END: Final = Manner("Google Frontend", _plain_refusal, "HTTP/1.0", _UNREAD, is_front_end=True)
"""Cloud Run, functions, App Engine, API Gateway, and what IAP guards, whatever `Server` the app behind sets."""
NOBODY: Final = Manner(None, _bare_refusal)
"""What plays no server of Google's."""
MANNER: Final = web.AppKey("manner", Manner)
NAMELESS: Final = web.ResponseKey("nameless", bool)
"""The key under which an answer says that it has no `Server`, whatever the others have."""


def application(
    manner: Manner, *, middlewares: Iterable[Middleware] = (), client_max_size: int = 1 << 20
) -> web.Application:
    """An application of this manner; `http_server` gives the answers that aiohttp would give by itself."""
    app = web.Application(middlewares=[_readable, *middlewares], client_max_size=client_max_size)
    app[MANNER] = manner
    app.on_response_prepare.append(_serves_as(manner.server))
    return app


class UnreadableError(Exception):
    """A request that aiohttp takes and Google's front ends do not."""


@web.middleware
async def _readable(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses HTTP/0.9, and CONNECT: 400 on "real Web servers", says Chromium's net/tools/testserver, in Google's
    words. Front ends refuse a GET with a body, too: `body_not_allowed` in
    https://github.com/meilisearch/meilisearch-python/issues/762, with the robot in
    https://github.com/nodevault/node-vault/pull/101.
    """
    if request.version < HttpVersion10 or request.method == "CONNECT":
        raise UnreadableError
    if request.app[MANNER].is_front_end and request.method in ("GET", "HEAD") and request.body_exists:
        raise UnreadableError
    return await handler(request)


def _serves_as(name: str | None) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal for `on_response_prepare` that sets `Server`, unless the answer has one of its own already."""

    async def named(_: web.Request, response: web.StreamResponse) -> None:
        if response.get(NAMELESS):
            response.headers.popall("Server", None)
        elif response.headers.get("Server", SERVER_SOFTWARE) == SERVER_SOFTWARE:
            response.headers.popall("Server", None)
            if name is not None:
                response.headers["Server"] = name

    return named
