"""sidecar.tokens.grants.federation, against the stand-in's Security Token Service: where subject tokens come from, and what is
said when none does"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from math import nan
from pathlib import Path
from typing import Any

import pytest
from google.auth import pluggable

from sidecar.config.credentials import Endpoints, WorkloadIdentityFederation
from sidecar.config.targets import TokenKind
from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.sts import AWS_TYPE, Provider
from sidecar.errors import Reason, SidecarError
from sidecar.runtime.clock import SystemClock
from sidecar.tokens.fetch.flight import Flight
from sidecar.tokens.fetch.source import GoogleSource
from sidecar.tokens.grants import subprocess_run
from sidecar.tokens.grants.executable import ALLOW_EXECUTABLES
from sidecar.tokens.grants.federation import FederationGrant, account_in
from sidecar.tokens.sources import build_sources
from sidecar.tokens.token import Token, TokenKey, read_claims
from tests.support.named_source import NamedSource

SA = "acted-as@emulated-project.iam.gserviceaccount.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
ACCESS = TokenKey(NamedSource("x"), SCOPE, TokenKind.ACCESS)
SUBJECT_SECRET = "eyJzdWJqZWN0IjoxfQ"


class Federation:
    """A provider that is trusted, and a file that leads to it."""

    def __init__(self, google: Emulator, directory: Path) -> None:
        self.environ = {ALLOW_EXECUTABLES: "1", "PATH": os.environ["PATH"]}
        self.named: tuple[str, ...] = ()
        self.withheld: tuple[str, ...] = ()
        self.google = google
        self.directory = directory
        self.provider: Provider = google.sts.add_provider()
        self.file = directory / "wif.json"
        self.subject = directory / "subject"
        self.subject.write_text(google.sts.subject_token(self.provider))
        google.principals.add(SA)
        google.principals.grant(self.provider.principal_set, "roles/iam.workloadIdentityUser", on=SA)

    def from_file(self, **source: Any) -> None:
        """The subject token is in a file."""
        self.write({"file": str(self.subject), **source})

    def from_program(self, body: str, **executable: Any) -> None:
        """The subject token comes from a program, `body` in Python, with `subject`."""
        program = self.directory / "program"
        program.write_text(
            f"#!{sys.executable}\nimport json, sys, time\nsubject = open({str(self.subject)!r}).read()\n{body}\n"
        )
        program.chmod(0o755)
        self.write({"executable": {"command": str(program), **executable}})

    def write(self, source: Mapping[str, Any], **more: Any) -> None:
        self.google.write_federation(self.file, self.provider, source, **more)

    def change(self, **changes: Any) -> None:
        """Other fields in the file; None takes one out."""
        info = {**json.loads(self.file.read_text()), **changes}
        self.file.write_text(json.dumps({name: value for name, value in info.items() if value is not None}))

    def source(self, account: str | None = None, *, seconds: float = 60.0) -> GoogleSource:
        credential = WorkloadIdentityFederation(
            type="workload_identity_federation",
            file=str(self.file),
            service_account=account,
            environment=self.named,
        )
        return build_sources(
            {"x": credential},
            clock=SystemClock(asyncio.get_running_loop()),
            environ={**self.environ, **self.google.environment()},
            endpoints=Endpoints(iam_credentials=self.google.iam_url),
            seconds=seconds,
            withheld=self.withheld,
        )["x"]

    async def mint(self, key: TokenKey = ACCESS, account: str | None = None) -> Token:
        return await self.source(account).mint(key)

    async def refused(self) -> SidecarError:
        """The error of a fetch."""
        with pytest.raises(SidecarError) as caught:
            await self.mint()
        assert caught.value.__context__ is None
        assert SUBJECT_SECRET not in str(caught.value)
        return caught.value


@pytest.fixture
def federation(google: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Federation:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    return Federation(google, tmp_path)


GIVES = (
    "print(json.dumps({'version': 1, 'success': True, 'expiration_time': int(time.time()) + 600,"
    " 'token_type': 'urn:ietf:params:oauth:token-type:jwt', 'id_token': subject}))"
)


def gives(**changes: Any) -> str:
    """The same, with other fields."""
    return GIVES.replace("print(json.dumps({", "print(json.dumps({**{").replace(
        "}))", f"}}, **{changes!r}}}))"
    )


SOURCES: Mapping[str, Callable[[Federation], None]] = {
    "file": lambda it: it.from_file(),
    "text-url": lambda it: it.write(it.google.url_source(it.provider)),
    "json-url": lambda it: it.write(it.google.url_source(it.provider, json=True)),
    "aws": lambda it: it.write(it.google.aws_source(), subject_token_type=AWS_TYPE),
    "executable": lambda it: it.from_program(GIVES),
}


@pytest.mark.parametrize("kind", SOURCES)
async def test_each_source_of_subject_tokens_leads_to_google(federation: Federation, kind: str) -> None:
    """The subject token is exchanged once, for the scopes that were asked for, and what comes back is sent."""
    SOURCES[kind](federation)
    token = await federation.mint()
    assert token.audience == SCOPE
    (asked,) = federation.google.sts.asked
    assert (asked.audience, asked.scope) == (federation.provider.audience, SCOPE)
    issued = federation.google.principals.introspect(token.bearer.decode().removeprefix("Bearer "))
    assert issued is not None
    assert issued.member == asked.member


@pytest.mark.parametrize("named_by", ["configuration", "file"])
async def test_it_leads_to_a_service_account(federation: Federation, named_by: str) -> None:
    """Named in the configuration or in the file; the file's own URL to it is not called, the configured IAM is."""
    federation.from_file()
    if named_by == "file":
        federation.change(
            service_account_impersonation_url=f"https://elsewhere.invalid/v1/projects/-/serviceAccounts/{SA}:generateAccessToken"
        )
    audience = "https://svc.example"
    token = await federation.mint(
        TokenKey(NamedSource("x"), audience), SA if named_by == "configuration" else None
    )
    claims = read_claims(token.bearer.decode().split()[1]) or {}
    assert (claims["email"], claims["aud"]) == (SA, audience)
    assert [asked.method for asked in federation.google.iam.asked] == ["generateIdToken"]


async def test_a_federated_identity_itself_has_no_id_token(federation: Federation) -> None:
    """Without a service account the error says that one is needed, and nobody is asked."""
    federation.from_file()
    with pytest.raises(SidecarError, match=r"credential_mismatch: .*set `service_account`"):
        await federation.mint(TokenKey(NamedSource("x"), "https://svc.example"))
    assert federation.google.sts.endpoint.arrived == 0


async def test_a_subject_token_is_read_anew_for_each_exchange(federation: Federation) -> None:
    """Another program renews it: the next fetch sends what is there then."""
    federation.from_file()
    it = federation.source()
    await it.mint(ACCESS)
    federation.subject.write_text(federation.google.sts.subject_token(federation.provider, "another"))
    await it.mint(ACCESS)
    assert [asked.member.rpartition("/")[2] for asked in federation.google.sts.asked] == [
        "workload",
        "another",
    ]


async def test_the_quota_project_of_the_file_is_told_to_iam(federation: Federation) -> None:
    """Calls to IAM are counted against it; what is no text is none."""
    federation.from_file()
    for project in ("my-project", ["no"]):
        federation.change(quota_project_id=project)
        await federation.mint(TokenKey(NamedSource("x"), "https://svc.example"), SA)
    assert len(federation.google.iam.asked) == 2
    assert list(federation.google.iam.quota_projects) == ["my-project"]


FAILURES: Mapping[str, tuple[Callable[[Federation], None], str]] = {
    "no-file": (
        lambda it: it.write({"file": str(it.directory / "missing")}),
        "The file with the subject token that",
    ),
    "empty-file": (
        lambda it: (it.from_file(), it.subject.write_text("")) and None,
        "is empty: see that what writes it runs",
    ),
    "file-of-other-json": (
        lambda it: (
            (
                it.from_file(format={"type": "json", "subject_token_field_name": "t"}),
                it.subject.write_text(json.dumps({"other": SUBJECT_SECRET})),
            )
            and None
        ),
        "has no text in its field `t`",
    ),
    "url-of-other-json": (
        lambda it: it.write(
            {
                **it.google.url_source(it.provider, json=True),
                "format": {"type": "json", "subject_token_field_name": "other"},
            }
        ),
        "no JSON with a text in its field `other`",
    ),
    "not-json": (
        lambda it: (
            (
                it.from_file(format={"type": "json", "subject_token_field_name": "t"}),
                it.subject.write_text(SUBJECT_SECRET),
            )
            and None
        ),
        "is not JSON, as its `format` says",
    ),
    "program-says-no": (
        lambda it: it.from_program(
            f"print(json.dumps({{'version': 1, 'success': False, 'code': '7', 'message': '{SUBJECT_SECRET}'}}))"
        ),
        "said `success: false`: 7",
    ),
    "program-crashes": (
        lambda it: it.from_program(f"sys.exit('{SUBJECT_SECRET}')"),
        "ended with exit code 1",
    ),
    "program-says-why": (
        lambda it: it.from_program(
            "print(json.dumps({'version': 1, 'success': False, 'code': '401', 'message': 'Caller not authorized.'}))"
        ),
        "said `success: false`: 401: Caller not authorized.",
    ),
    "program-says-no-without-a-word": (
        lambda it: it.from_program("print(json.dumps({'version': 1, 'success': False, 'message': [1]}))"),
        "said `success: false` and not why",
    ),
    "program-says-no-on-several-lines": (
        lambda it: it.from_program(
            "print(json.dumps({'version': 1, 'success': False, 'code': 7, 'message': 'a\\x1b[2Jb' + 'x y ' * 9999}))"
        ),
        "said `success: false`: 7: a\\x1b[2Jbx y x y",
    ),
    "program-prints-nothing": (lambda it: it.from_program("pass"), "printed nothing"),
    "program-is-killed": (
        lambda it: it.from_program("__import__('os').kill(__import__('os').getpid(), 9)"),
        "was ended by signal 9",
    ),
    "program-of-too-short-a-time": (
        lambda it: it.from_program(GIVES, timeout_millis=100),
        "`timeout_millis` must be 5000 to 120000",
    ),
    "program-of-less-than-no-time": (
        lambda it: it.from_program(GIVES, timeout_millis=-5000),
        "`timeout_millis` must be 5000 to 120000",
    ),
    "program-of-a-time-in-words": (
        lambda it: it.from_program(GIVES, timeout_millis="30s"),
        "`timeout_millis` must be 5000 to 120000",
    ),
    "program-may-not-be-run": (
        lambda it: (it.from_program(GIVES), (it.directory / "program").chmod(0o644)) and None,
        "could not be run (permission denied)",
    ),
    "program-is-of-another-machine": (
        lambda it: (it.from_program(GIVES), (it.directory / "program").write_bytes(b"\x7fELFx")) and None,
        "could not be run (exec format error)",
    ),
    "program-gives-a-token-and-fails": (
        lambda it: it.from_program(f"{GIVES}\nsys.exit(3)"),
        "ended with exit code 3",
    ),
    "program-prints-words": (lambda it: it.from_program("print('hello')"), "printed no JSON object"),
    "program-of-the-future": (lambda it: it.from_program(gives(version=2)), "in a `version` other than 1"),
    "program-of-no-version": (lambda it: it.from_program(gives(version="1")), "in a `version` other than 1"),
    "program-of-no-type": (
        lambda it: it.from_program(gives(token_type="jwt")),
        "a `token_type` that is none of",
    ),
    "program-of-no-token": (lambda it: it.from_program(gives(id_token="")), "gave no `id_token`"),
    "program-too-late": (
        lambda it: it.from_program(gives(expiration_time=1)),
        "an `expiration_time` that no token has",
    ),
    "program-expired": (
        lambda it: it.from_program(GIVES.replace("+ 600", "- 60")),
        "gave a subject token that has expired",
    ),
    **{
        f"program-for-ever-{word}": (
            lambda it, word=word: it.from_program(
                GIVES.replace("int(time.time()) + 600", f"float({word!r})")
            ),
            "an `expiration_time` that no token has",
        )
        for word in ("1e300", "nan", "inf", "253402387200")
    },
    "program-is-not-there": (
        lambda it: it.write({"executable": {"command": "/nowhere/at-all"}}),
        "could not be run (no such file or directory)",
    ),
    "program-is-nothing": (lambda it: it.write({"executable": {"command": "'"}}), "no usable `command`"),
    "program-takes-too-long": (
        lambda it: it.from_program(GIVES, timeout_millis=600_000),
        "`timeout_millis` must be 5000 to 120000",
    ),
    "no-region": (
        lambda it: it.write(
            {
                "environment_id": "aws1",
                "regional_cred_verification_url": it.google.aws_source()["regional_cred_verification_url"],
            },
            subject_token_type=AWS_TYPE,
        ),
        "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION",
    ),
    "another-cloud-refuses": (
        lambda it: it.write({**it.google.url_source(it.provider), "headers": {}}),
        "The source of subject tokens at 127.0.0.1",
    ),
}


@pytest.mark.parametrize("what", FAILURES)
async def test_a_subject_token_that_cannot_be_had(federation: Federation, what: str) -> None:
    """Says which of its sources failed and what to look at; nothing of what it printed, and Google is not asked."""
    prepare, says = FAILURES[what]
    prepare(federation)
    error = await federation.refused()
    assert error.reason is Reason.SUBJECT_TOKEN_FAILED
    assert says in error.detail
    assert federation.google.sts.endpoint.arrived == 0


async def test_a_programs_own_words_hold_none_of_its_secrets(federation: Federation) -> None:
    """What it says of its failure is shown without what it was given, what it gave, and what looks like a secret."""
    federation.environ |= {"AWS_SECRET_ACCESS_KEY": "short one"}
    known = (
        "short one",
        "word-of-command",
        "plain-token",
        "eyJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJ4In0.c2ln",
        "hunter2",
    )
    federation.from_program(
        "print(json.dumps({'version': 1, 'success': False, 'id_token': 'plain-token', 'message': "
        f"'{known[0]}, {known[1]}, {known[2]}, {known[3]}: password={known[4]}, at https://u:{known[4]}@h/?k={known[4]} so'"
        "}))"
    )
    info = json.loads(federation.file.read_text())
    command = info["credential_source"]["executable"]["command"]
    federation.write({"executable": {"command": f"{command} word-of-command"}})
    error = await federation.refused()
    assert not [word for word in known if word in str(error)]
    assert "said `success: false`: " in error.detail
    assert error.detail.count("********") >= 5


SPOILT: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "nothing": ({}, "exactly one of `file`, `url`, `executable`, `certificate`, and has none"),
    "two": ({"file": "/x", "url": "http://127.0.0.1:9/"}, "and has `file`, `url`"),
    "odd-format": ({"file": "/x", "format": {"type": "xml"}}, "the `type` of `format` must be"),
    "format-of-words": ({"file": "/x", "format": "json"}, "the `type` of `format` must be"),
    "no-field": (
        {"url": "http://127.0.0.1:9/", "format": {"type": "json"}},
        "the `type` of `format` must be",
    ),
    "headers-of-words": ({"url": "http://127.0.0.1:9/", "headers": "Metadata: true"}, "`headers` must be"),
    "file-is-no-text": ({"file": 7}, "`file` must be a text"),
    "executable-is-text": ({"executable": "/bin/x"}, "`executable` must be an object"),
    "aws": ({"environment_id": "aws1"}, "which is AWS's"),
    "certificate-of-nowhere": (
        {"certificate": {"trust_chain_path": "/x"}},
        "exactly one of `certificate_config",
    ),
    "certificate-of-two-places": (
        {"certificate": {"certificate_config_location": "/x", "use_default_certificate_config": True}},
        "exactly one of `certificate_config",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
async def test_a_source_of_subject_tokens_that_is_none(federation: Federation, what: str) -> None:
    """Says what is wrong with it in the file's own words; nothing is read or asked."""
    source, says = SPOILT[what]
    federation.write(source)
    error = await federation.refused()
    assert error.reason is Reason.CREDENTIAL_INVALID
    assert says in error.detail
    assert "create-cred-config" in error.detail


@pytest.mark.parametrize(
    ("source", "says"),
    [
        pytest.param({"environment_id": "aws2"}, "`environment_id` must be `aws1`", id="version"),
        pytest.param({"environment_id": "gcp"}, "`environment_id` must be `aws1`", id="another-cloud"),
        pytest.param({"environment_id": "aws1"}, "lacks `regional_cred_verification_url`", id="no-url"),
        pytest.param({"file": "/x"}, "`environment_id` must be `aws1`", id="file"),
    ],
)
async def test_a_source_of_aws_that_is_none(
    federation: Federation, source: dict[str, Any], says: str
) -> None:
    """Named as such before AWS is asked."""
    federation.write(source, subject_token_type=AWS_TYPE)
    error = await federation.refused()
    assert error.reason is Reason.CREDENTIAL_INVALID
    assert says in error.detail


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
async def test_a_subject_token_is_read_whatever_unicode_it_was_saved_in(
    federation: Federation, encoding: str
) -> None:
    """From a file, plain or in JSON, from what a program printed, and from the file it kept it in."""
    token = federation.subject.read_text()
    federation.from_file()
    federation.subject.write_bytes(f"{token}\r\n".encode(encoding))
    await federation.mint()
    federation.from_file(format={"type": "json", "subject_token_field_name": "t"})
    federation.subject.write_bytes(json.dumps({"t": token}).encode(encoding))
    await federation.mint()
    federation.subject.write_text(token)
    federation.from_program(GIVES.replace("print(", "print('\\ufeff', end='') or print("))
    await federation.mint()
    kept = federation.directory / "kept.json"
    federation.from_program(
        GIVES.replace("print(", f"open({str(kept)!r}, 'wb').write(").replace(
            "subject}))", f"subject}}).encode({encoding!r}))"
        ),
        output_file=str(kept),
    )
    await federation.mint()
    assert len(federation.google.sts.asked) == 4


async def test_programs_are_run_only_where_that_was_allowed(federation: Federation) -> None:
    """A file can't bring a command along: google-auth's own variable must say so, and the error names it."""
    del federation.environ[ALLOW_EXECUTABLES]
    ran = federation.directory / "ran"
    federation.from_program(f"open({str(ran)!r}, 'w')\n{GIVES}")
    error = await federation.refused()
    assert error.reason is Reason.SUBJECT_TOKEN_FAILED
    assert f"{ALLOW_EXECUTABLES}=1" in error.detail
    assert not ran.exists()


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        pytest.param({}, "No role is attached to this instance: attach an instance profile", id="instance"),
        pytest.param(
            {"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": f"/v2/credentials/{SUBJECT_SECRET}"},
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI is set, so this is a task of ECS or Fargate",
            id="ecs",
        ),
        pytest.param(
            {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"http://169.254.170.23/{SUBJECT_SECRET}"},
            "google-auth does not support the role of a task: set AWS_ACCESS_KEY_ID",
            id="pod-identity",
        ),
        pytest.param(
            {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token"}, "so this is a pod of EKS", id="web-identity"
        ),
        pytest.param(
            {"AWS_ACCESS_KEY_ID": SUBJECT_SECRET}, "and AWS_SECRET_ACCESS_KEY is not", id="half-a-key"
        ),
    ],
)
@pytest.mark.parametrize("answer", ["not-found", "blank"])
async def test_an_instance_of_aws_without_a_role(
    federation: Federation, environ: dict[str, str], says: str, answer: str
) -> None:
    """Says so, and what of the environment google-auth does not follow."""
    SOURCES["aws"](federation)
    federation.google.sts.aws_role = None if answer == "not-found" else ""
    federation.environ |= environ
    error = await federation.refused()
    assert error.reason is Reason.SUBJECT_TOKEN_FAILED
    assert says in error.detail


async def test_a_role_of_aws_that_may_not_be_assumed(federation: Federation) -> None:
    """The metadata service answers 200 with a code in place of keys."""
    SOURCES["aws"](federation)
    federation.google.sts.aws_failure = "AssumeRoleUnauthorizedAccess"
    error = await federation.refused()
    assert error.reason is Reason.SUBJECT_TOKEN_FAILED
    assert "gave `Code: AssumeRoleUnauthorizedAccess` in place of the role's keys" in error.detail
    assert "trust policy" in error.detail


async def test_a_fargate_task_is_told_what_to_set(federation: Federation, unused_tcp_port: int) -> None:
    """Nothing answers where EC2 has its metadata service."""
    SOURCES["aws"](federation)
    source = {
        name: re.sub(r"^http://127\.0\.0\.1:[0-9]+/", f"http://127.0.0.1:{unused_tcp_port}/", url)
        for name, url in federation.google.aws_source().items()
    }
    federation.write(source, subject_token_type=AWS_TYPE)
    federation.environ["AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"] = f"/v2/credentials/{SUBJECT_SECRET}"
    error = await federation.refused()
    assert error.reason is Reason.TOKEN_ENDPOINT_UNREACHABLE
    assert "google-auth does not support the role of a task" in error.detail


CERTIFICATES: Mapping[str, tuple[Mapping[str, Any], object, str]] = {
    "default-and-not-there": (
        {"use_default_certificate_config": True},
        None,
        "certificate_config.json) is not there: `gcloud iam workload-identity-pools create-cred-config",
    ),
    "empty": ({"use_default_certificate_config": True}, {}, "`cert_configs.workload.cert_path`"),
    "no-key": (
        {"use_default_certificate_config": True},
        {"cert_configs": {"workload": {"cert_path": "wif.json"}}},
        "`cert_configs.workload.key_path`",
    ),
    "certificate-not-there": (
        {"use_default_certificate_config": True},
        {"cert_configs": {"workload": {"cert_path": "/gone.pem", "key_path": "/gone.key"}}},
        "The certificate that",
    ),
}


@pytest.mark.parametrize("what", CERTIFICATES)
async def test_a_certificate_that_cannot_be_had(federation: Federation, what: str) -> None:
    """Its configuration is looked for where google-auth does; what is missing is named, with its fix."""
    certificate, config, says = CERTIFICATES[what]
    federation.environ["CLOUDSDK_CONFIG"] = str(federation.directory)
    federation.write({"certificate": certificate})
    if config is not None:
        text = json.dumps(config).replace("wif.json", str(federation.file))
        (federation.directory / "certificate_config.json").write_text(text)
    error = await federation.refused()
    assert error.reason is Reason.SUBJECT_TOKEN_FAILED
    assert says in error.detail


SEES = "open({seen!r}, 'w').write(json.dumps(dict(__import__('os').environ)))\n"


async def test_a_program_sees_none_of_the_sidecars_secrets(federation: Federation) -> None:
    """It sees what it was made for, and what its credential names; google-auth would show it everything."""
    seen = federation.directory / "seen"
    secrets = {
        "IDTOKEN_SIDECAR_LISTEN": "{require_header: secret}",
        "IDTOKEN_SIDECAR_CONFIG": "/etc/config.yaml",
        "LOCAL_SECRET": "a",
        "DATABASE_PASSWORD": "b",
        "GOOGLE_TOKEN_OF_OURS": "c",
        "LISTEN_FDS": "1",
    }
    usual = {"HOME": "/home/x", "LC_ALL": "C.UTF-8", "HTTPS_PROXY": "http://proxy", "AWS_REGION": "eu-west-1"}
    federation.environ |= {**secrets, **usual, "GOOGLE_CLOUD_PROJECT": "p", "IDP_HANDLE": "h"}
    federation.withheld = ("LOCAL_SECRET", "GOOGLE_TOKEN_OF_OURS")
    federation.from_program(SEES.format(seen=str(seen)) + GIVES)
    await federation.mint()
    found = json.loads(seen.read_text())
    assert not found.keys() & {*secrets, "IDP_HANDLE"}
    assert found.items() >= {**usual, "GOOGLE_CLOUD_PROJECT": "p", ALLOW_EXECUTABLES: "1"}.items()
    federation.named = ("IDP_HANDLE", "LOCAL_SECRET", "NOT_SET")
    await federation.mint()
    assert json.loads(seen.read_text()).keys() - found.keys() == {"IDP_HANDLE", "LOCAL_SECRET"}


async def test_a_program_is_told_what_google_auth_tells_it(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables of AIP-4117, compared with google-auth's own way of running the same file."""

    seen = federation.directory / "seen"
    kept = str(federation.directory / "kept.json")
    federation.from_program(SEES.format(seen=str(seen)) + GIVES, output_file=kept)
    url = f"https://iam.example/v1/projects/-/serviceAccounts/{SA}:generateAccessToken"
    federation.change(service_account_impersonation_url=url)
    for name in [name for name in os.environ if name.startswith("GOOGLE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv(ALLOW_EXECUTABLES, "1")
    theirs = pluggable.Credentials.from_info(json.loads(federation.file.read_text()))
    subject = theirs.retrieve_subject_token(None)
    told = {name: value for name, value in json.loads(seen.read_text()).items() if name.startswith("GOOGLE_")}
    grant = FederationGrant(
        federation.file.read_text, "x", programs=federation.environ, token_url=federation.google.sts_url
    )
    flight = Flight(SystemClock(asyncio.get_running_loop()), 60)
    await asyncio.to_thread(grant.access_token, flight, [SCOPE])
    flight.close()
    ours = {name: value for name, value in json.loads(seen.read_text()).items() if name.startswith("GOOGLE_")}
    assert ours == told
    assert len(told) >= 7
    assert subject == federation.subject.read_text()


async def test_a_subject_token_that_was_kept_is_used_while_it_lives(federation: Federation) -> None:
    """From `output_file`; a kept one that has ended, or does not say when it ends, or is none, is not used, nor one that
    says it never ends."""
    kept, count = federation.directory / "kept.json", federation.directory / "count"
    federation.from_program(f"open({str(count)!r}, 'a').write('x')\n{GIVES}", output_file=str(kept))
    now = SystemClock(asyncio.get_running_loop()).wall()
    answer = {
        "version": 1,
        "success": True,
        "token_type": "urn:ietf:params:oauth:token-type:jwt",
        "id_token": federation.subject.read_text(),
    }
    runs = 0
    for ends_at, runs_again in ((now + 600, 0), (now - 5, 1), (None, 1), (1e300, 1), ("soon", 1)):
        kept.write_text(json.dumps(answer if ends_at is None else {**answer, "expiration_time": ends_at}))
        await federation.mint()
        runs += runs_again
        assert (len(count.read_text()) if count.exists() else 0) == runs, ends_at


async def test_a_program_may_answer_in_its_file(federation: Federation) -> None:
    """Where it prints nothing."""
    kept = federation.directory / "kept.json"
    federation.from_program(f"sys.stdout = open({str(kept)!r}, 'w')\n{GIVES}", output_file=str(kept))
    await federation.mint()


@pytest.mark.slow
async def test_a_program_that_does_not_end_is_named(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the time that its file gives it: here the shortest that google-auth lets it give, of which this test waits a part."""
    given = []
    run = subprocess_run.run

    def sooner(*arguments: Any, seconds: float) -> subprocess_run.Ended:
        given.append(seconds)
        return run(*arguments, seconds=0.3)

    monkeypatch.setattr(subprocess_run, "run", sooner)
    federation.from_program("time.sleep(600)", timeout_millis=5000)
    error = await federation.refused()
    assert given == [5.0]
    assert error.reason is Reason.SUBJECT_TOKEN_FAILED
    assert "did not end within its `timeout_millis`" in error.detail


async def test_an_sts_that_gives_no_token(federation: Federation) -> None:
    """What it answered in place of one is the fault, not the subject token."""
    federation.from_file()
    federation.google.sts.endpoint.fail(Fault("garbage"))
    error = await federation.refused()
    assert error.reason is Reason.TOKEN_MALFORMED
    assert error.detail.startswith("The Security Token Service at 127.0.0.1")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"type": "service_account"}, "of type service_account, not one for workload", id="type"),
        pytest.param({"audience": None}, "lacks `audience`", id="no-audience"),
        pytest.param({"subject_token_type": 7}, "lacks `subject_token_type`", id="no-subject-type"),
        pytest.param({"token_url": "http://sts.example/v1/token"}, "not an https URL", id="plain-http"),
        pytest.param({"token_url": "http://evil.example\\@localhost/"}, "not an https URL", id="backslash"),
        pytest.param(
            {"credential_source": {"url": "http://a[::1]b/"}}, "`url` is not a URL", id="source-no-url"
        ),
        pytest.param({"credential_source": None}, "lacks `credential_source`", id="no-source"),
        pytest.param({"credential_source": "/run/token"}, "lacks `credential_source`", id="source-is-text"),
    ],
)
async def test_a_file_that_cannot_be_used(federation: Federation, changes: dict[str, Any], says: str) -> None:
    """Names the file and what is wrong with it; nothing is read or sent."""
    federation.from_file()
    federation.change(**changes)
    grant = FederationGrant(federation.file.read_text, str(federation.file))
    with pytest.raises(SidecarError) as caught:
        grant.service_account()
    assert caught.value.reason is Reason.CREDENTIAL_INVALID
    assert says in caught.value.detail
    assert str(federation.file) in caught.value.detail


def test_the_configured_sts_takes_the_place_of_the_files(tmp_path: Path) -> None:
    """Also where the file's own could not be asked."""
    info = {"type": "external_account", "audience": "a", "subject_token_type": "t", "credential_source": {}}
    grant = FederationGrant(lambda: json.dumps(info), "x", token_url="https://sts.internal/token")
    assert grant.service_account() is None
    assert grant.describe() == "workload identity federation by x"


@pytest.mark.parametrize(
    ("url", "account"),
    [
        pytest.param(None, None, id="none"),
        pytest.param(
            f"https://iam.example/v1/projects/-/serviceAccounts/{SA}:generateAccessToken", SA, id="one"
        ),
        pytest.param(f"https://iam.example/serviceAccounts/{SA}:signBlob", ..., id="another-method"),
        pytest.param("https://iam.example/serviceAccounts/nobody:generateAccessToken", ..., id="no-email"),
        pytest.param(7, ..., id="not-text"),
    ],
)
def test_the_account_in_an_impersonation_url(url: object, account: object) -> None:
    """Its e-mail alone is used; a URL without one makes the file unusable."""
    if account is not ...:
        assert account_in({"url": url}, "url", "x") == account
        return
    with pytest.raises(SidecarError, match=r"credential_invalid: .*`url` names no service account"):
        account_in({"url": url}, "url", "x")


@pytest.mark.parametrize(
    ("source", "seconds"),
    [
        pytest.param({"file": "/run/token"}, None, id="no-program"),
        pytest.param({"executable": {"command": "x", "timeout_millis": 5000}}, 5.0, id="its-own"),
        pytest.param({"executable": {"command": "x"}}, 30.0, id="google-auths"),
        pytest.param({"executable": {"command": "x", "timeout_millis": "5s"}}, 30.0, id="nonsense"),
        pytest.param({"executable": {"command": "x", "timeout_millis": 0}}, 30.0, id="zero"),
        pytest.param({"executable": {"command": "x", "timeout_millis": True}}, 30.0, id="switch"),
        pytest.param({"executable": {"command": "x", "timeout_millis": 10**400}}, 30.0, id="huge"),
        pytest.param({"executable": {"command": "x", "timeout_millis": nan}}, 30.0, id="nan"),
        pytest.param({"executable": "x"}, None, id="not-an-object"),
        pytest.param(None, None, id="not-a-file-for-this"),
    ],
)
def test_how_long_a_program_may_run(source: object, seconds: float | None) -> None:
    """What the file says, else google-auth's default: the fetch that waits for it must outlive it."""
    info = {"type": "external_account", "audience": "a", "subject_token_type": "t", "token_url": "https://x"}
    grant = FederationGrant(lambda: json.dumps({**info, "credential_source": source}), "x")
    assert grant.executable_seconds() == seconds


@pytest.mark.parametrize(
    ("audience", "member"),
    [
        pytest.param(
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q",
            "principalSet://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/*",
            id="pool",
        ),
        pytest.param("https://elsewhere.example", None, id="odd"),
        pytest.param("//iam.googleapis.com/$(id)/providers/q", None, id="shell"),
        pytest.param("//iam.googleapis.com/a b/providers/q", None, id="blank"),
        pytest.param("//iam.googleapis.com/a\n/providers/q", None, id="line-break"),
    ],
)
def test_who_it_is_to_iam(audience: str, member: str | None) -> None:
    """All identities of the pool, for the command that grants: which one it is shows only in the subject token."""
    info = {
        "type": "external_account",
        "audience": audience,
        "subject_token_type": "t",
        "token_url": "https://x",
    }
    grant = FederationGrant(lambda: json.dumps({**info, "credential_source": {}}), "x")
    assert grant.member(None) == member  # type: ignore[arg-type]


@pytest.mark.parametrize("place", ["pipe", "zero", "huge"])
@pytest.mark.parametrize("role", ["file", "output_file", "certificate", "chain", "certs-certificate"])
async def test_what_a_file_names_is_a_regular_file_of_bounded_size(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, role: str, place: str
) -> None:
    """google-auth and OpenSSL would wait for a pipe, and read a device forever."""
    monkeypatch.setenv(ALLOW_EXECUTABLES, "1")
    file = tmp_path / "place"
    match place:
        case "pipe":
            os.mkfifo(file)
        case "zero":
            file.symlink_to("/dev/zero")
        case "huge":
            file.touch()
            os.truncate(file, 2**40)
    empty = tmp_path / "empty.json"
    empty.write_text("{}")
    config = tmp_path / "certificate_config.json"
    config.write_text(
        json.dumps({"cert_configs": {"workload": {"cert_path": str(file), "key_path": str(file)}}})
    )
    federation.write(
        {
            "file": {"file": str(file)},
            "output_file": {"executable": {"command": "true", "output_file": str(file)}},
            "certificate": {"certificate": {"certificate_config_location": str(file)}},
            "chain": {
                "certificate": {"certificate_config_location": str(empty), "trust_chain_path": str(file)}
            },
            "certs-certificate": {"certificate": {"certificate_config_location": str(config)}},
        }[role]
    )
    with pytest.raises(SidecarError) as caught:
        await federation.mint()
    assert caught.value.reason is Reason.SUBJECT_TOKEN_FAILED
    assert "cannot be used" in caught.value.detail
