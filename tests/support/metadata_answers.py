"""How a metadata server answers, as a table: of the stand-in and of the sidecar's own alike.

Knowledge of Google's server, shared as rows and not as code, so that neither is measured by itself. Sources:
https://cloud.google.com/compute/docs/metadata/querying-metadata, and what libraries rely on (google-auth's
`_metadata.py`, gcloud's `gce_read.py`, npm's gcp-metadata).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import pytest

V1: Final = "/computeMetadata/v1"
ACCOUNTS: Final = f"{V1}/instance/service-accounts"
FLAVOR: Final = {"Metadata-Flavor": "Google"}


class Row(NamedTuple):
    """One request, and what is known of its answer. `EMAIL` in a path stands for the account's."""

    path: str
    status: int = 200
    kind: str = ""
    """Of the content; empty for any."""
    holds: Callable[[str, str], Any] = lambda body, email: True
    """Body and e-mail."""
    headers: Mapping[str, str] = FLAVOR
    method: str = "GET"


def row(name: str, *args: Any, **more: Any) -> Any:
    return pytest.param(Row(*args, **more), id=name)


ROWS: Final = [
    row("ping", "/", 200, "", lambda body, _: body == "computeMetadata/\n", headers={}),
    row("ping-with-flavor", "/"),
    row("root", "/computeMetadata/", 200, "application/text", lambda body, _: body == "v1/\n"),
    row(
        "v1",
        f"{V1}/",
        200,
        "application/text",
        lambda body, _: {"instance/", "project/"} <= set(body.split()),
    ),
    row("no-flavor", f"{V1}/project/project-id", 403, headers={}),
    row("another-flavor", f"{V1}/project/project-id", 403, headers={"Metadata-Flavor": "Vanilla"}),
    row(
        "forwarded",
        f"{V1}/project/project-id",
        403,
        headers={**FLAVOR, "X-Forwarded-For": "10.0.0.1"},
    ),
    row("ping-forwarded", "/", 403, headers={"X-Forwarded-For": "10.0.0.1"}),
    row(
        "project",
        f"{V1}/project/project-id",
        200,
        "application/text",
        lambda body, _: body == "emulated-project",
    ),
    row(
        "number", f"{V1}/project/numeric-project-id", 200, "application/text", lambda body, _: body.isdigit()
    ),
    row("zone", f"{V1}/instance/zone", 200, "application/text", lambda body, _: body.startswith("projects/")),
    row(
        "universe",
        f"{V1}/universe/universe-domain",
        200,
        "application/text",
        lambda body, _: body == "googleapis.com",
    ),
    row("instance-without-slash", f"{V1}/instance", 301),
    row("accounts-without-slash", ACCOUNTS, 301),
    row(
        "accounts",
        f"{ACCOUNTS}/",
        200,
        "application/text",
        lambda body, email: set(body.split()) == {"default/", f"{email}/"},
    ),
    row(
        "account",
        f"{ACCOUNTS}/default/",
        200,
        "application/text",
        lambda body, _: body == "aliases\nemail\nidentity\nscopes\ntoken\n",
    ),
    row(
        "aliases", f"{ACCOUNTS}/default/aliases", 200, "application/text", lambda body, _: body == "default\n"
    ),
    row("email", f"{ACCOUNTS}/default/email", 200, "application/text", lambda body, email: body == email),
    row(
        "email-by-name", f"{ACCOUNTS}/EMAIL/email", 200, "application/text", lambda body, email: body == email
    ),
    row(
        "scopes",
        f"{ACCOUNTS}/default/scopes",
        200,
        "application/text",
        lambda body, _: body == "https://www.googleapis.com/auth/cloud-platform\n",
    ),
    row(
        "recursive",
        f"{ACCOUNTS}/default/?recursive=true",
        200,
        "application/json",
        lambda body, email: (
            body == f'{{"aliases":["default"],"email":"{email}",'
            '"scopes":["https://www.googleapis.com/auth/cloud-platform"]}'
        ),
    ),
    row(
        "recursive-of-all-accounts",
        f"{ACCOUNTS}/?recursive=true",
        200,
        "application/json",
        lambda body, email: f'"{email}":{{"aliases"' in body and '"default":{"aliases"' in body,
    ),
    row("recursive-as-text", f"{ACCOUNTS}/default/?recursive=true&alt=text", 200, "application/text"),
    row(
        "names-in-camel-case",
        f"{V1}/project/?recursive=true",
        200,
        "application/json",
        lambda b, _: "projectId" in b,
    ),
    row(
        "value-as-json",
        f"{V1}/project/project-id?alt=json",
        200,
        "application/json",
        lambda b, _: b[0] == b[-1] == '"',
    ),
    row("nothing-there", f"{V1}/instance/no-such-thing", 404),
    row("no-such-account", f"{ACCOUNTS}/other@example.com/token", 404),
    row("no-audience", f"{ACCOUNTS}/default/identity", 400),
    row("empty-audience", f"{ACCOUNTS}/default/identity?audience=", 400),
    row(
        "id-token",
        f"{ACCOUNTS}/default/identity?audience=https://billing.example&format=full",
        200,
        "text/html",
        lambda body, _: body.count(".") == 2 and body.strip() == body,
    ),
    row("id-token-by-name", f"{ACCOUNTS}/EMAIL/identity?audience=https://billing.example", 200, "text/html"),
    row(
        "access-token",
        f"{ACCOUNTS}/default/token",
        200,
        "application/json",
        lambda body, _: '"token_type":"Bearer"' in body and '"expires_in":35' in body,
    ),
    row("access-token-by-name", f"{ACCOUNTS}/EMAIL/token", 200, "application/json"),
    row("post", f"{V1}/project/project-id", 405, method="POST"),
    row(
        "head", f"{V1}/project/project-id", 200, "application/text", lambda body, _: body == "", method="HEAD"
    ),
]
