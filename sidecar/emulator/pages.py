"""Google's own error pages, and the headers of its front ends.

Owns the two pages that people see in place of a service's answer. The plain one is the serverless front end's (Cloud
Run, functions, App Engine); every other front end and the metadata server give the one with the robot. Used by all
servers of the stand-in; knows none of them. Sources: real answers that people pasted in public issues. The robot's
page is complete in https://github.com/googleapis/gcp-metadata/issues/657 (a metadata server's 404, with its headers),
the plain one in https://github.com/ahmetb/runsd/issues/25 and https://github.com/datacommonsorg/docsite/pull/463.
"""

from __future__ import annotations

import html
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.http import SERVER_SOFTWARE
from aiohttp.typedefs import Handler, Middleware

FRONT_END: Final = "Google Frontend"
"""`Server` of Cloud Run, functions, App Engine and API Gateway, whatever the app behind sets."""
API: Final = "ESF"
"""`Server` of Google's APIs, the token endpoints among them (https://github.com/s3ql/s3ql/issues/99)."""

_PHRASES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    503: "Server Error",
}
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
    return robot(404, f"The requested URL <code>{html.escape(path)}</code> was not found on this server.")


def not_allowed(method: str, path: str) -> str:
    """The robot's page for a method that the path does not take."""
    return robot(
        405,
        f"The request method <code>{html.escape(method)}</code> is inappropriate for the URL "
        f"<code>{html.escape(path)}</code>.",
    )


def plain(status: int, phrase: str, text: str) -> web.Response:
    """The serverless front end's page: `text` is HTML."""
    page = (
        '\n<html><head>\n<meta http-equiv="content-type" content="text/html;charset=utf-8">\n'
        f"<title>{status} {phrase}</title>\n</head>\n<body text=#000000 bgcolor=#ffffff>\n"
        f"<h1>Error: {phrase}</h1>\n<h2>{text}</h2>\n<h2></h2>\n</body></html>\n"
    )
    return web.Response(
        status=status, body=page.encode(), headers={"Content-Type": "text/html; charset=UTF-8"}
    )


def application(server: str) -> web.Application:
    """An application that says it is `server`, and has the robot's pages in place of aiohttp's own 404 and 405."""
    app = web.Application(middlewares=[_robots()])
    app.on_response_prepare.append(serves_as(server))
    return app


def _robots() -> Middleware:

    @web.middleware
    async def replaced(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except web.HTTPNotFound:
            status, text, headers = 404, not_found(request.path), {}
        except web.HTTPMethodNotAllowed as error:
            status, text = 405, not_allowed(request.method, request.path)
            headers = {"Allow": ", ".join(sorted(error.allowed_methods))}
        headers["Content-Type"] = "text/html; charset=UTF-8"
        return web.Response(status=status, body=text.encode(), headers=headers)

    return replaced


def serves_as(name: str) -> Callable[[web.Request, web.StreamResponse], Awaitable[None]]:
    """A signal for `on_response_prepare` that sets `Server`, unless the answer has one of its own already."""

    async def named(_: web.Request, response: web.StreamResponse) -> None:
        if response.headers.get("Server", SERVER_SOFTWARE) == SERVER_SOFTWARE:
            response.headers["Server"] = name

    return named
