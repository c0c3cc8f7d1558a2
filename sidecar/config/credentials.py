"""The shape of `credentials` and `endpoints`: one model for each type of credential.

Owns their keys, types, defaults and descriptions. Used by `models`; what concerns several keys at once is in `checks`.
Pure.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, model_validator

from sidecar.config.quantities import Duration
from sidecar.config.values import Model, Switch
from sidecar.config.variables import metadata_address
from sidecar.grammar import hosts
from sidecar.grammar.contents import quoted

ADC_VARIABLE: Final = "GOOGLE_APPLICATION_CREDENTIALS"
"""Names the file of `adc`."""

_EMAIL = re.compile(r"[A-Za-z0-9._%+][A-Za-z0-9._%+-]{0,99}@[A-Za-z0-9.-]{1,150}")
"""Not with `-` in front: to a command that would be an option."""


def is_email(text: object) -> bool:
    """Whether this is an e-mail address, of characters that are safe in a command line and in a header."""
    return isinstance(text, str) and _EMAIL.fullmatch(text) is not None


def _service_account(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not a service account's e-mail")
    # As IAM's own resource names spell it.
    email = value.rpartition("/serviceAccounts/")[2]
    if not is_email(email):
        raise ValueError(
            f"{quoted(value)} is not a service account's e-mail, such as `billing@PROJECT.iam.gserviceaccount.com`"
        )
    return email


ServiceAccountEmail = Annotated[str, BeforeValidator(_service_account)]


def _variable(value: Any) -> str:
    if not isinstance(value, str) or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value) is None:
        raise ValueError(f"`{value}` is not the name of an environment variable")
    return value


VariableName = Annotated[str, BeforeValidator(_variable)]


def _account(value: Any) -> Any:
    if isinstance(value, str) and value != "default" and not is_email(value):
        raise ValueError(f"`{value}` is neither `default` nor a service account's e-mail")
    return value


class Adc(Model):
    """Application Default Credentials, in google-auth's order: the file that GOOGLE_APPLICATION_CREDENTIALS names,
    the file that `gcloud auth application-default login` writes, the metadata server. The file's `type` decides how
    it is used: like the type of the same name below."""

    type: Literal["adc"]


class Metadata(Model):
    """The metadata server of Compute Engine, Cloud Run, GKE, functions, App Engine, Cloud Build."""

    type: Literal["metadata"]
    account: Annotated[str, BeforeValidator(_account)] = Field(
        "default", description="Service account of the instance: `default` or an e-mail.", min_length=1
    )
    licenses: Switch = Field(
        False, description="Ask for the licence codes of the instance in the token too (Compute Engine)."
    )


class ServiceAccountKey(Model):
    """A service account's key, as a file or as text from a variable."""

    type: Literal["service_account_key"]
    file: str | None = Field(
        None, description="Path of the key file; read again at each fetch.", min_length=1
    )
    json_: SecretStr | None = Field(
        None,
        alias="json",
        description="The key file's text itself, such as `${KEY_JSON}`; instead of `file`.",
    )
    allow_world_readable: Switch = Field(
        False,
        description="Use a file that every user of this machine can read. A Kubernetes secret is one unless its "
        "volume has `defaultMode: 0440`, which needs the pod's `fsGroup`.",
    )

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.file is None) == (self.json_ is None):
            raise ValueError("exactly one of `file` and `json` is needed")
        return self


class Impersonate(Model):
    """Another service account that `source` may act as. The IAM Credentials API makes its tokens, with the e-mail in
    each. `source` needs `roles/iam.serviceAccountOpenIdTokenCreator` on it for ID tokens, and
    `roles/iam.serviceAccountTokenCreator` for the other kinds. The universe domain is that of `source`."""

    type: Literal["impersonate"]
    service_account: ServiceAccountEmail = Field(description="E-mail of the service account to act as.")
    source: str = Field("default", description="Which of `credentials` acts as it.")
    delegates: tuple[ServiceAccountEmail, ...] = Field(
        (),
        description="Service accounts in between, nearest to `source` first; each needs "
        "`roles/iam.serviceAccountTokenCreator` on the next.",
    )


class WorkloadIdentityFederation(Model):
    """An `external_account` file, as `gcloud iam workload-identity-pools create-cred-config` writes it: the identity
    of another cloud, of GitHub Actions and the like. Its subject token may come from a file, a URL, an executable
    (only with GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES=1) or AWS: the role of an EC2 instance, or AWS_ACCESS_KEY_ID,
    AWS_SECRET_ACCESS_KEY and AWS_REGION. The roles of ECS or Fargate tasks and of EKS pods are not supported:
    google-auth can't use them."""

    type: Literal["workload_identity_federation"]
    file: str = Field(description="Path of the file; read again at each fetch.", min_length=1)
    service_account: ServiceAccountEmail | None = Field(
        None,
        description="E-mail of the service account to act as. Default: the one that the file names; without any, there "
        "are access tokens only.",
    )
    environment: tuple[VariableName, ...] = Field(
        (),
        description="Names of environment variables that the file's executable is to see, beside `HOME`, `PATH`, "
        "`LANG`, `LC_*`, `TZ`, `TMPDIR`, `USER`, those of proxies and CA files, `GOOGLE_*`, `CLOUDSDK_*`, `AWS_*` and "
        "`GCE_METADATA_*`. It sees a variable that a secret of the configuration comes from only if you name it "
        "here.",
    )


class User(Model):
    """A person's login (`gcloud auth application-default login`), for development. Its ID token is for gcloud's client
    id, whatever the audience, so it works for Cloud Run and functions only. With `impersonate` on top it works for
    every target."""

    type: Literal["user"]
    file: str | None = Field(None, description="Path of the file. Default: gcloud's own.", min_length=1)


class Gcloud(Model):
    """The gcloud CLI, for development: `gcloud auth print-identity-token` as a subprocess."""

    type: Literal["gcloud"]
    account: str | None = Field(
        None, description="Which of gcloud's accounts. Default: the active one.", min_length=1
    )
    service_account: ServiceAccountEmail | None = Field(
        None,
        description="E-mail of the service account to act as (`--impersonate-service-account`): then every audience "
        "works, and the token has the e-mail.",
    )
    delegates: tuple[ServiceAccountEmail, ...] = Field((), description="Service accounts in between.")
    command: str = Field("gcloud", description="The executable, by name or path.", min_length=1)
    timeout: Duration = Field(30.0, description="End it after this long.", gt=0)

    @model_validator(mode="after")
    def _delegates_to_whom(self) -> Self:
        if self.delegates and self.service_account is None:
            raise ValueError("`delegates` lead to a `service_account`, which is missing")
        if self.account is not None and not is_email(self.account):
            raise ValueError(
                f"{quoted(self.account)} is not an account of gcloud's, such as `me@example.com`"
            )
        return self


class File(Model):
    """A token that another program renews, such as a projected Kubernetes token or a Vault agent. The file is read
    again when it changes, and before the token expires."""

    type: Literal["file"]
    path: str = Field(description="Path of the file; it holds the token and nothing else.", min_length=1)


class Static(Model):
    """A literal token, for tests. It is used until it expires."""

    type: Literal["static"]
    token: SecretStr = Field(description="The token itself, such as `${TOKEN}`.", min_length=1)


Credential = Annotated[
    Adc
    | Metadata
    | ServiceAccountKey
    | Impersonate
    | WorkloadIdentityFederation
    | User
    | Gcloud
    | File
    | Static,
    Field(discriminator="type"),
]

CREDENTIAL_TYPES: Final[dict[str, type[Model]]] = {
    "adc": Adc,
    "metadata": Metadata,
    "service_account_key": ServiceAccountKey,
    "impersonate": Impersonate,
    "workload_identity_federation": WorkloadIdentityFederation,
    "user": User,
    "gcloud": Gcloud,
    "file": File,
    "static": Static,
}


def _metadata_address(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not host and port, such as `127.0.0.1:8080`")
    return metadata_address(value)


def _endpoint(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{quoted(value)} is not a URL")
    try:
        url = hosts.parse_url(value)
    except ValueError:
        raise ValueError(
            f"{quoted(value)} is not a URL such as `https://iamcredentials.googleapis.com`"
        ) from None
    if "?" in value or "#" in value:
        raise ValueError(f"{quoted(value)}: an endpoint has neither query nor fragment")
    if url.scheme == "http" and not hosts.is_loopback(url.authority.host):
        raise ValueError(
            f"{quoted(value)}: credentials would cross the network in plaintext; `http://` is for loopback only"
        )
    return value.rstrip("/")


EndpointUrl = Annotated[str, BeforeValidator(_endpoint)]


class Endpoints(Model):
    """Where tokens are asked for, instead of Google's public addresses: an emulator, a regional or private endpoint,
    another universe domain. Plain `http://` is for loopback only."""

    metadata: Annotated[str, BeforeValidator(_metadata_address)] | None = Field(
        None,
        description="Host and port of the metadata server. Default: GCE_METADATA_HOST, else metadata.google.internal.",
    )
    oauth: EndpointUrl | None = Field(
        None, description="The OAuth token endpoint. Default: what a key or login names."
    )
    sts: EndpointUrl | None = Field(
        None, description="The Security Token Service's token endpoint. Default: the `token_url` of the file."
    )
    iam_credentials: EndpointUrl | None = Field(
        None,
        description="The IAM Credentials API, without a path. Default: https://iamcredentials.googleapis.com, in the "
        "credential's universe domain. One below googleapis.com is refused for credentials of other universes.",
    )
