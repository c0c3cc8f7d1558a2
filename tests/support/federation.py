"""Credential files of workload identity federation for tests, one for each place that a subject token comes from."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

from sidecar.emulator.app import Emulator
from sidecar.emulator.sts import AWS_TYPE, Provider

SOURCES: Final = ("file", "text-url", "json-url", "aws", "executable")


def federation_file(
    google: Emulator, provider: Provider, directory: Path, source: str, *, service_account: str | None = None
) -> Path:
    """An `external_account` file with the subject token, or the program that gives it, beside it.

    A program is run only where GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES is 1.
    """
    kind = {"subject_token_type": AWS_TYPE} if source == "aws" else {}
    found = _source(google, provider, directory, source)
    return google.write_federation(
        directory / f"federation-{source}.json", provider, found, service_account=service_account, **kind
    )


def _source(google: Emulator, provider: Provider, directory: Path, source: str) -> dict[str, Any]:
    match source:
        case "text-url":
            return google.url_source(provider)
        case "json-url":
            return google.url_source(provider, json=True)
        case "aws":
            return dict(google.aws_source())
    subject = directory / "subject"
    subject.write_text(google.sts.subject_token(provider))
    if source == "file":
        return {"file": str(subject)}
    program = directory / "executable"
    program.write_text(
        f"#!{sys.executable}\nimport json, time\n"
        "print(json.dumps({'version': 1, 'success': True, 'expiration_time': int(time.time()) + 600,\n"
        f"    'token_type': 'urn:ietf:params:oauth:token-type:jwt', 'id_token': open({str(subject)!r}).read()}}))\n"
    )
    program.chmod(0o755)
    return {"executable": {"command": str(program), "timeout_millis": 10_000}}
