"""Google's own and others' client libraries, each run unmodified in a process of its own against the stand-in.

Owns how each is started, which credential types it has, and where it is looked for. Called by `test_libraries`, which
judges what they bring. A library that is not on this machine is skipped with its package's name; `make test-all` installs
all of them (`make clients`, into build/clients, and Debian's packages).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final, NamedTuple, final

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "build" / "clients"
PROGRAMS: Final = Path(__file__).with_name("programs")
PYTHON: Final = BUILD / "python" / "bin" / "python"
NODE_MODULES: Final = BUILD / "npm" / "node_modules"
GOCODE: Final = Path("/usr/share/gocode")
JARS: Final = Path("/usr/share/java")
FEDERATION: Final = ("federation", "federation_text", "federation_aws", "federation_program")
"""Workload identity federation, by each source of a subject token."""
_JAVA: Final = (
    "google-auth-library-oauth2-http",
    "google-auth-library-credentials",
    "google-http-client",
    "google-http-client-gson",
    "google-http-client-jackson2",
    "jackson-core",
    "gson",
    "guava",
    "failureaccess",
    "grpc-context",
    "opencensus-api",
    "opencensus-contrib-http-util",
    "httpclient",
    "httpcore",
    "commons-logging",
    "commons-codec",
)

_GO: Final = (("GO111MODULE", "off"), ("GOPATH", str(GOCODE)), ("GOFLAGS", ""))
_GO_RUN: Final = ("go", "run", str(PROGRAMS / "elsewhere.go"))
"""With what leads calls to the stand-in beside the program."""


def missing_of(needs: tuple[Path | str, ...]) -> list[str]:
    """Which of these files and commands are not here."""
    return [
        str(need) for need in needs if not (need.exists() if isinstance(need, Path) else shutil.which(need))
    ]


@final
class Library(NamedTuple):
    """One library."""

    title: str
    program: str
    runner: tuple[str, ...]
    """What comes before the program's path."""
    needs: tuple[Path | str, ...]
    """Files, or commands, that are there where it is installed."""
    package: str
    """What to install."""
    ways: tuple[str, ...]
    """Its credential types, as its program calls them."""
    metadata: tuple[str, ...] = ()
    """Those of the metadata server, tried on every platform."""
    always: bool = False
    """Whether `make test` runs it, too."""
    environ: tuple[tuple[str, str], ...] = ()
    newer: tuple[str, ...] = ()
    """Ways that versions after Debian's have; what an older one says of it stands in the table."""

    @property
    def command(self) -> list[str]:
        """All but the ways."""
        return [*self.runner, str(PROGRAMS / self.program)]

    @property
    def missing(self) -> list[str]:
        """What of its needs is not here."""
        return missing_of(self.needs)


LIBRARIES: Final = {
    "google-auth": Library(
        "google-auth (Python)",
        "google_auth.py",
        (sys.executable,),
        (),
        "google-auth",
        (
            *("key_access", "key_id", "self_signed", "login"),
            *FEDERATION,
            *("impersonated_file", "impersonated_access", "impersonated_id", "impersonated_sign", "verify"),
        ),
        ("metadata_access", "metadata_id", "metadata_sign", "metadata_signed_id"),
        always=True,
    ),
    "google-auth-aio": Library(
        "google-auth, aio (Python)",
        "google_auth_aio.py",
        (str(PYTHON),),
        (PYTHON,),
        "`make clients`",
        ("key_access", "key_id", "calls"),
    ),
    "gcloud-aio": Library(
        "gcloud-aio-auth (Python)",
        "gcloud_aio.py",
        (str(PYTHON),),
        (PYTHON,),
        "`make clients`",
        ("key_access",),
        ("metadata_access",),
    ),
    "google-cloud-storage": Library(
        "google-cloud-storage (Python)",
        "cloud_storage.py",
        (str(PYTHON),),
        (PYTHON,),
        "`make clients`",
        ("key_access",),
        ("metadata_access",),
    ),
    "gcsfs": Library(
        "gcsfs (Python)",
        "gcsfs_list.py",
        (str(PYTHON),),
        (PYTHON,),
        "`make clients`",
        ("key_access",),
        ("metadata_access",),
    ),
    "node": Library(
        "google-auth-library, gcp-metadata (Node)",
        "node_auth.cjs",
        ("node",),
        ("node", NODE_MODULES / "google-auth-library"),
        "`make clients`",
        (
            *("key_access", "key_id", "self_signed", "login"),
            *FEDERATION,
            *("impersonated_file", "impersonated_access", "impersonated_id", "impersonated_sign"),
        ),
        ("metadata_access", "metadata_id", "metadata_sign", "metadata_tree"),
        environ=(("NODE_PATH", str(NODE_MODULES)),),
    ),
    "node-storage": Library(
        "@google-cloud/storage (Node)",
        "node_storage.cjs",
        ("node",),
        ("node", NODE_MODULES / "@google-cloud" / "storage"),
        "`make clients`",
        (),
        ("metadata_access",),
        environ=(("NODE_PATH", str(NODE_MODULES)),),
    ),
    "go": Library(
        "golang.org/x/oauth2, compute/metadata (Go)",
        "auth.go",
        _GO_RUN,
        (
            "go",
            GOCODE / "src/golang.org/x/oauth2/google",
            GOCODE / "src/cloud.google.com/go/compute/metadata",
        ),
        "golang-go golang-golang-x-oauth2-google-dev golang-google-cloud-compute-metadata-dev",
        (
            *("key_access", "self_signed", "self_signed_scope", "login"),
            *FEDERATION,
            "impersonated_file",
        ),
        ("metadata_access", "metadata_id", "metadata_tree"),
        environ=_GO,
    ),
    "go-api": Library(
        "google.golang.org/api: idtoken, impersonate (Go)",
        "google_api.go",
        _GO_RUN,
        ("go", GOCODE / "src/google.golang.org/api/idtoken"),
        "golang-go golang-google-api-dev",
        ("key_id", "impersonated_access", "impersonated_id"),
        ("metadata_id",),
        environ=_GO,
    ),
    "java": Library(
        "google-auth-library (Java)",
        "Auth.java",
        ("java", "-cp", ":".join(str(JARS / f"{name}.jar") for name in _JAVA)),
        ("java", JARS / "google-auth-library-oauth2-http.jar"),
        "default-jdk-headless libgoogle-auth-java",
        (
            *("key_access", "key_id", "key_sign", "login", "federation"),
            *("impersonated_file", "impersonated_access", "impersonated_id", "impersonated_sign"),
        ),
        ("metadata_access", "metadata_id", "metadata_sign", "metadata_tree"),
        newer=("federation", "impersonated_file"),
    ),
    "ruby": Library(
        "googleauth (Ruby)",
        "auth.rb",
        ("ruby",),
        ("ruby", Path("/usr/share/rubygems-integration/all/gems")),
        "ruby-googleauth",
        (
            *("key_access", "key_id", "self_signed", "login"),
            *("federation", "impersonated_file", "impersonated_access"),
        ),
        ("metadata_access", "metadata_id"),
        newer=("federation", "impersonated_file", "impersonated_access"),
    ),
    "r": Library(
        "gargle (R)",
        "auth.R",
        ("Rscript",),
        ("Rscript", Path("/usr/lib/R/site-library/gargle")),
        "r-cran-gargle",
        ("key_access", "federation_aws"),
        ("metadata_access",),
        newer=("federation_aws",),
    ),
    "gcloud": Library(
        "gcloud",
        "gcloud_cli.py",
        (sys.executable,),
        ("gcloud",),
        "google-cloud-cli",
        ("key_access", "key_id", "login", *FEDERATION, "impersonated_access", "impersonated_id"),
        ("metadata_access", "metadata_id"),
    ),
}
"""By the name that a test has."""
