"""The front end of Cloud Run and of Cloud Functions.

Owns their verdict and their answers. Called by `checks`; reads headers and the path only. Sources:
https://cloud.google.com/run/docs/authenticating/service-to-service,
https://cloud.google.com/run/docs/configuring/custom-audiences, https://cloud.google.com/functions/docs/securing; the
text of a 401 in https://github.com/pomerium/pomerium/issues/1623, its challenge in a comment of google/ground-platform
(web/src/app/services/data-import/data-import.service.ts), of a 403 in
https://github.com/datacommonsorg/docsite/pull/463 and https://github.com/ahmetb/runsd/issues/25; that a
service with internal ingress is a 404 in https://github.com/richardhe-fundamenta/practical-gcp-examples/pull/11.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from sidecar.emulator.asked import Asked
from sidecar.emulator.keys import BadTokenError
from sidecar.emulator.kinds import GCLOUD_CLIENTS
from sidecar.emulator.pages import plain
from sidecar.emulator.verdicts import Admitted, Judge, RefusedError


def check_cloud_run(asked: Asked, judge: Judge) -> Admitted:
    """With both headers only X-Serverless-Authorization counts; one header several times is refused."""
    if judge.settings.ingress == "internal":
        raise RefusedError(_answer_404())
    headers = asked.headers
    name = next((n for n in ("X-Serverless-Authorization", "Authorization") if n in headers), None)
    if name is None:
        raise RefusedError(_answer_403(asked))
    try:
        if len(headers.getall(name)) > 1:
            raise BadTokenError("several tokens")
        claims = judge.trust(headers[name])
        if not _is_audience(claims, judge):
            raise BadTokenError("wrong audience")
    except BadTokenError as error:
        raise RefusedError(_answer_401(asked)) from error
    verified = judge.verified(claims, name)
    if not judge.permits(verified.email, verified.principal):
        raise RefusedError(_answer_403(asked))
    return Admitted(verified)


def _is_audience(claims: Mapping[str, Any], judge: Judge) -> bool:
    audience, settings = claims["aud"], judge.settings
    if settings.user_tokens and audience in GCLOUD_CLIENTS:
        return True
    if settings.kind == "cloud_functions":
        if settings.generation == 1:
            return bool(audience == judge.audience)
        # The second generation is a Cloud Run service with a URL of its own, beside the function's.
        wanted = [judge.audience, judge.url]
    else:
        wanted = [judge.audience]
    # Google's samples write run.app with a trailing slash: both are good. Custom audiences are compared exactly.
    urls = [url.removesuffix("/") for url in wanted]
    return audience in (*urls, *(f"{url}/" for url in urls), *settings.custom_audiences)


def _answer_401(asked: Asked) -> web.Response:
    response = plain(
        401,
        "Unauthorized",
        f"Your client does not have permission to the requested URL {_code(asked)}.",
    )
    response.headers["WWW-Authenticate"] = (
        'Bearer error="invalid_token" error_description="The access token could not be verified"'
    )
    return response


def _answer_403(asked: Asked) -> web.Response:
    text = f"Your client does not have permission to get URL {_code(asked)} from this server."
    return plain(403, "Forbidden", text)


def _answer_404() -> web.Response:
    return plain(404, "Page not found", "The requested URL was not found on this server.")


def _code(asked: Asked) -> str:
    return f"<code>{html.escape(asked.path)}</code>"
