"""The environment of programs that print tokens: gcloud, and the executables that credential files name.

Owns the list of what they may see of this process's own. Called by `gcloud` and `sources`. Pure. The rule: nothing is
passed on that is not named here or by the configuration, since secrets of the sidecar stand in its environment too:
its own settings (`IDTOKEN_SIDECAR_*`), and whatever the configuration's `${…}` refer to.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

_NAMES: Final = frozenset(
    {
        *("HOME", "PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "USER", "LOGNAME"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
        *("GCE_METADATA_ROOT", "GCE_METADATA_HOST", "GCE_METADATA_IP"),
    }
)
GCLOUD: Final = ("LC_", "CLOUDSDK_")
"""How the names begin that gcloud is to see as well."""
EXECUTABLES: Final = (*GCLOUD, "GOOGLE_", "AWS_")
"""The same for an executable that gives a subject token, usually for an identity of another cloud."""


def passed_on(
    environ: Mapping[str, str],
    prefixes: tuple[str, ...],
    *,
    withheld: Collection[str] = (),
) -> dict[str, str]:
    """What a program sees of `environ`: the usual names and those that begin with one of `prefixes`, except for those
    that are `withheld`."""
    return {
        name: value
        for name, value in environ.items()
        if name not in withheld and (name in _NAMES or name.startswith(prefixes))
    }
