"""Where subject tokens come from, and why a source gives none.

Owns the check of a `credential_source`, the reading of the files it names, and the errors of AWS's metadata service.
Called by `federation`, in a worker thread, before and after google-auth. The rule: visible mistakes are reported in
the file's own terms before anything is called; subject tokens, certificates and AWS keys are never quoted. Sources:
https://google.aip.dev/auth/4117; google-auth's `identity_pool.py` and `aws.py`;
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instance-metadata-security-credentials.html.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn, final

from sidecar.errors import Reason, SidecarError
from sidecar.grammar.contents import place
from sidecar.runtime.regular_files import read
from sidecar.tokens.credential_file import FILE_LIMIT, host_of, invalid
from sidecar.tokens.fetch.endpoint import capital
from sidecar.tokens.grants.gcloud_directory import gcloud_directory
from sidecar.tokens.miswritten import loaded

AGAIN: Final = "Write it again with `gcloud iam workload-identity-pools create-cred-config`."
AWS_TYPE: Final = "urn:ietf:params:aws:token-type:aws4_request"
_KINDS: Final[Mapping[str, type]] = {"file": str, "url": str, "executable": dict, "certificate": dict}
_KIND_NAMES: Final[Mapping[type, str]] = {str: "a text", dict: "an object"}
_AROUND: Final = "\ufeff \t\r\n"
_CERTIFICATE_VARIABLES: Final = (
    "GOOGLE_API_CERTIFICATE_CONFIG",
    "CLOUDSDK_CONTEXT_AWARE_CERTIFICATE_CONFIG_FILE_PATH",
)
_CODE: Final = re.compile(r"[A-Za-z]{1,60}")


def check_source(info: Mapping[str, Any], where: str) -> None:
    """Raise CREDENTIAL_INVALID unless google-auth would accept the `credential_source` of `info`."""
    source = info["credential_source"]
    wrong = _wrong_aws(source) if info["subject_token_type"] == AWS_TYPE else _wrong(source)
    if wrong:
        invalid(where, f"{wrong}. {AGAIN}")


def _wrong_aws(source: Mapping[str, Any]) -> str:
    if source.get("environment_id") != "aws1":
        return "in its `credential_source` for AWS, `environment_id` must be `aws1`"
    url = source.get("regional_cred_verification_url")
    if not isinstance(url, str) or not url:
        return "its `credential_source` for AWS lacks `regional_cred_verification_url`"
    return ""


def _wrong(source: Mapping[str, Any]) -> str:
    if "environment_id" in source:
        return (
            "its `credential_source` has `environment_id`, which is AWS's, and its `subject_token_type` is not "
            f"{AWS_TYPE}"
        )
    kinds = [kind for kind in _KINDS if source.get(kind)]
    if len(kinds) != 1:
        named = ", ".join(f"`{kind}`" for kind in kinds) or "none"
        every = ", ".join(f"`{kind}`" for kind in _KINDS)
        return f"its `credential_source` must have exactly one of {every}, and has {named}"
    (kind,) = kinds
    if not isinstance(source[kind], _KINDS[kind]):
        return f"in its `credential_source`, `{kind}` must be {_KIND_NAMES[_KINDS[kind]]}"
    if kind in ("file", "url") and not _is_format(source.get("format", {})):
        return (
            "in its `credential_source`, the `type` of `format` must be `text`, or `json` with a "
            "`subject_token_field_name`"
        )
    headers = source.get("headers") or {}
    if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
        return "in its `credential_source`, `headers` must be an object of texts"
    if kind == "certificate":
        return _wrong_certificate(source[kind])
    return ""


def _wrong_certificate(certificate: Mapping[str, Any]) -> str:
    location = certificate.get("certificate_config_location")
    default = certificate.get("use_default_certificate_config")
    if bool(location) == bool(default) or not isinstance(location or "", str):
        return (
            "in its `certificate`, exactly one of `certificate_config_location` (the path of a certificate "
            "configuration) and `use_default_certificate_config` (true) is needed"
        )
    return ""


def _is_format(form: object) -> bool:
    if not isinstance(form, dict) or form.get("type", "text") not in ("text", "json"):
        return False
    return form.get("type") != "json" or isinstance(form.get("subject_token_field_name"), str)


def failed(detail: str) -> NoReturn:
    """Raise SUBJECT_TOKEN_FAILED."""
    raise SidecarError(Reason.SUBJECT_TOKEN_FAILED, detail)


def text_of(file: str, what: str, where: str, fix: str = "") -> str:
    """The text of a file that is named in `where`; raises SUBJECT_TOKEN_FAILED. google-auth and OpenSSL would wait
    for a pipe, and read a device without end.
    """
    why = ""
    named = f"{capital(what)} that {where} names ({place(file)})"
    try:
        return read(file, FILE_LIMIT).text
    except FileNotFoundError:
        pass
    except UnicodeDecodeError:
        why = "it is not text"
    except OSError as error:
        why = (error.strerror or "it cannot be read").lower()
    if why:
        failed(f"{named} cannot be used: {why}.")
    failed(f"{named} is not there: {fix or 'see that what writes it runs, and that it is mounted here'}.")


@final
class SubjectFile:
    """A `google.auth.identity_pool.SubjectTokenSupplier` whose file is read by our own rules."""

    def __init__(self, source: Mapping[str, Any], where: str) -> None:
        self._source = source
        self._where = where

    def get_subject_token(self, context: Any, request: Any) -> str:
        """See the protocol; raises SUBJECT_TOKEN_FAILED."""
        del context, request
        return self.read()

    def read(self) -> str:
        """The subject token; raises SUBJECT_TOKEN_FAILED."""
        text = text_of(self._source["file"], "the file with the subject token", self._where).strip(_AROUND)
        named = f"The file with the subject token that {self._where} names ({place(self._source['file'])})"
        if not text:
            failed(f"{named} is empty: see that what writes it runs.")
        form = self._source.get("format", {})
        if form.get("type") != "json":
            return text
        found, field = loaded(text), form["subject_token_field_name"]
        if not isinstance(found, dict):
            failed(f"{named} is not JSON, as its `format` says: for a bare token leave `format` out.")
        token = found.get(field)
        if not isinstance(token, str) or not token:
            failed(f"{named} has no text in its field `{place(field)}`: see `subject_token_field_name`.")
        return token


def check_certificate(source: Mapping[str, Any], where: str, environ: Mapping[str, str]) -> None:
    """Raise SUBJECT_TOKEN_FAILED unless the files of an X.509 source exist and are not too large."""
    certificate = source["certificate"]
    if chain := certificate.get("trust_chain_path"):
        text_of(str(chain), "the trust chain", where)
    config = certificate.get("certificate_config_location") or _default_configuration(environ)
    text = text_of(
        str(config),
        "the certificate configuration",
        where,
        "`gcloud iam workload-identity-pools create-cred-config --credential-cert-path=CERTIFICATE "
        "--credential-cert-private-key-path=KEY` writes it, with the paths of both; or name it in "
        "`certificate_config_location` or GOOGLE_API_CERTIFICATE_CONFIG",
    )
    found: Any = loaded(text)
    for key in ("cert_configs", "workload"):
        found = found.get(key) if isinstance(found, dict) else None
    for key in ("cert_path", "key_path"):
        path = found.get(key) if isinstance(found, dict) else None
        if not isinstance(path, str) or not path:
            failed(
                f"The certificate configuration that {where} leads to ({place(config)}) cannot be used: it has no text "
                f"in `cert_configs.workload.{key}`, the path of a PEM file."
            )
        text_of(
            path, "the certificate" if key == "cert_path" else "the certificate's key", str(place(config))
        )


def _default_configuration(environ: Mapping[str, str]) -> str:
    """Where google-auth looks for it (`google.auth.transport._mtls_helper`)."""
    named = next((environ[name] for name in _CERTIFICATE_VARIABLES if environ.get(name)), None)
    return named or str(gcloud_directory(environ) / "certificate_config.json")


def why_none(info: Mapping[str, Any], where: str) -> str:
    """What to check if google-auth got no subject token and its message may contain one."""
    source = info["credential_source"]
    if info["subject_token_type"] == AWS_TYPE:
        return (
            f"No AWS credentials or region were found for {where}: on EC2 check the instance's role and its metadata "
            "service, elsewhere set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION."
        )
    if "certificate" in source:
        return (
            f"The certificate, key and trust chain that {where} leads to cannot be used: all must be PEM, the key the "
            "certificate's own, and the certificate the first of its chain."
        )
    if "url" in source:
        form = source.get("format", {})
        is_json = form.get("type") == "json"
        field = f"no JSON with a text in its field `{place(form.get('subject_token_field_name'))}`"
        return (
            f"The source of subject tokens at {host_of(source['url'])} gave {field if is_json else 'no text'}: check "
            f"`url`, `headers` and `format` in {where}, and call that URL by hand."
        )
    return f"No subject token came for {where}, and no exchange was made: check its `credential_source`."


@final
class AwsSource:
    """What AWS's metadata service says, and what this process's environment says about AWS."""

    def __init__(self, info: Mapping[str, Any], where: str, environ: Mapping[str, str]) -> None:
        source = info["credential_source"]
        self._role_url = str(source.get("url") or "")
        self._region_url = source.get("region_url")
        self._where = where
        self._environ = environ

    def hint(self, url: str) -> str:
        """What to do if `url` gives no answer, or a refusal."""
        elsewhere = self._elsewhere()
        if url == self._role_url:
            return f"{_NO_ROLE}{elsewhere}"
        return (
            "Check that this is an EC2 instance whose metadata service is on; from a container, its hop limit must be "
            "2 "
            f"(`aws ec2 modify-instance-metadata-options --http-put-response-hop-limit 2`).{elsewhere}"
        )

    def look(self, url: str, data: bytes) -> None:
        """Raise SUBJECT_TOKEN_FAILED for an answer with status 200 that only reports a failure."""
        if url == self._region_url and not data.strip():
            failed(f"AWS's metadata service at {host_of(url)} named no zone: set AWS_REGION.")
        if url == self._role_url and not data.strip():
            failed(f"AWS's metadata service at {host_of(url)} names no role. {self.hint(url)}")
        if not self._role_url or not url.startswith(f"{self._role_url}/"):
            return
        found = _object(data)
        if all(isinstance(found.get(key), str) for key in ("AccessKeyId", "SecretAccessKey")):
            return
        code = found.get("Code")
        said = f"`Code: {code}`" if isinstance(code, str) and _CODE.fullmatch(code) else "something else"
        failed(
            f"AWS's metadata service at {host_of(url)} gave {said} in place of the role's keys, for {self._where}: see "
            "that the instance's role exists and that its trust policy lets ec2.amazonaws.com assume it, then "
            "attach it again."
        )

    def _elsewhere(self) -> str:
        """What the environment says about where this runs, which google-auth does not know."""
        environ = self._environ
        given = [name for name in _AWS_KEYS if environ.get(name)]
        if len(given) == 1:
            (lacks,) = (name for name in _AWS_KEYS if name not in given)
            return f" {given[0]} is set and {lacks} is not: both are needed, or they don't count."
        name = next((name for name in _CONTAINER if environ.get(name)), None)
        if name is not None:
            return f" {name} is set, so this is a task of ECS or Fargate, or a pod of EKS. {_TASK_ROLE}"
        if environ.get(_WEB_IDENTITY):
            return f" {_WEB_IDENTITY} is set, so this is a pod of EKS. {_POD_ROLE}"
        return ""


_AWS_KEYS: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_CONTAINER: Final = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")
_WEB_IDENTITY: Final = "AWS_WEB_IDENTITY_TOKEN_FILE"
_NO_ROLE: Final = (
    "No role is attached to this instance: attach an instance profile with one, or set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY."
)
_TASK_ROLE: Final = (
    "google-auth does not support the role of a task: set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN "
    "and AWS_REGION for this process (`aws configure export-credentials --format env` prints the first three), and "
    "start it again before they end."
)
_POD_ROLE: Final = (
    "google-auth does not support its role: trust the cluster's issuer in a provider of its own, and give that file as "
    "the `credential_source` (`--credential-source-file`)."
)


def _object(data: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
