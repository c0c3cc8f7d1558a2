"""Environment variables of other programs that the sidecar follows.

Owns their permitted values. Called by `load`, which checks those that a credential follows, and by `tokens`, which
reads them. Pure: the environment is an argument. The rule: a value with a clear meaning is accepted, with or without
blanks around it. Any other is an error that names the variable and what to set, as for a key of the configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final, NamedTuple

from sidecar.config.addresses import ListenAddress, leads_to
from sidecar.grammar import hosts
from sidecar.grammar.contents import kind_of, quoted
from sidecar.grammar.proxies import ProxyUrl, is_excepted, parse_proxy

METADATA_VARIABLES: Final = ("GCE_METADATA_HOST", "GCE_METADATA_ROOT")
"""Say where the metadata server is; the first that is set counts, as google-auth reads them."""
MTLS_MODE: Final = "GCE_METADATA_MTLS_MODE"
_EXAMPLES: Final = "`169.254.169.254` or `127.0.0.1:8080`"


def metadata_variable(environ: Mapping[str, str]) -> str | None:
    """The variable that says where the metadata server is; None where none does. What is blank says nothing."""
    return next((name for name in METADATA_VARIABLES if environ.get(name, "").strip()), None)


def metadata_address(text: str) -> str:
    """Host and port of a metadata server, as they stand in a URL; ValueError with a sentence for the middle of a line.

    Blanks around it, `http://` before it and a slash behind it change nothing, and IPv6 may lack its brackets.
    """
    plain = text.strip()
    if plain.lower().startswith("https://"):
        raise ValueError(f"a metadata server speaks plain http: set it to host and port, such as {_EXAMPLES}")
    if plain.lower().startswith("http://"):
        plain = plain[len("http://") :]
    plain = plain.removesuffix("/")
    if ":" in plain and "[" not in plain and (address := hosts.ip_literal(plain)) is not None:
        plain = f"[{address}]"
    try:
        authority = hosts.parse_authority(plain)
    except ValueError:
        authority = None
    if authority is None or authority.port == 0 or kind_of(plain) is not None:
        shown = "it" if "@" in text else quoted(text)
        raise ValueError(f"{shown} is not host and port: set it to one such as {_EXAMPLES}")
    return str(authority)


def mutual_tls(environ: Mapping[str, str]) -> bool:
    """Whether the metadata server is to be asked over mutual TLS, by google-auth's GCE_METADATA_MTLS_MODE; ValueError
    with a sentence for a mode that there is not."""
    mode = environ.get(MTLS_MODE, "").strip().lower() or "none"
    if mode not in ("strict", "default", "none"):
        raise ValueError(
            f"{quoted(mode)} is not a mode: set it to `strict`, `default` or `none`, or unset it"
        )
    return mode != "none"


def leading_to(address: str) -> dict[str, str]:
    """What leads the libraries of a process to the metadata server at `address`, laid over any other environment."""
    return {
        "GCE_METADATA_HOST": address,
        # google-auth (Python) asks at this one whether there is a metadata server at all.
        "GCE_METADATA_IP": address,
        # gcloud's name for it (googlecloudsdk/core/credentials/gce_read.py), and that of R's gargle.
        "GCE_METADATA_ROOT": address,
        "GCE_METADATA_URL": address,
        # npm's gcp-metadata otherwise looks for a machine of Google's first (its README).
        "METADATA_SERVER_DETECTION": "assume-present",
        # Each of these would keep google-auth from asking there.
        MTLS_MODE: "none",
        "NO_GCE_CHECK": "false",
    }


class ProxySetting(NamedTuple):
    """A proxy, and the variable that names it."""

    variable: str
    proxy: ProxyUrl


def proxy_for(
    environ: Mapping[str, str], scheme: str, host: str, port: int, own: Collection[ListenAddress] = ()
) -> ProxySetting | None:
    """The proxy for a URL (host in normal form), by HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; None for none.

    Small letters go before capitals, and what is empty names none, as in requests and curl. `own` is what this sidecar
    listens on. ValueError, which names the variable, for one that can't be used.
    """
    name = _proxy_variable(environ, scheme)
    if name is None or is_excepted(_either(environ, "no_proxy")[1].split(","), host, port):
        return None
    try:
        return ProxySetting(name, _usable_proxy(environ[name], own))
    except ValueError as error:
        raise ValueError(f"The environment variable {name} can't be followed: {error}") from None


def proxy_faults(environ: Mapping[str, str], own: Collection[ListenAddress]) -> Iterator[tuple[str, str]]:
    """The variables that name a proxy which can't be used, each with what is wrong."""
    for name in followed_proxies(environ):
        try:
            _usable_proxy(environ[name], own)
        except ValueError as error:
            yield name, str(error)


def followed_proxies(environ: Mapping[str, str]) -> list[str]:
    """The variables that name a proxy, whether that can be used or not."""
    names = (_proxy_variable(environ, scheme) for scheme in ("https", "http"))
    return list(dict.fromkeys(name for name in names if name is not None))


def _proxy_variable(environ: Mapping[str, str], scheme: str) -> str | None:
    for name in (f"{scheme}_proxy", "all_proxy"):
        found, value = _either(environ, name)
        if value:
            return found
    return None


def _either(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    """A variable's name and value: the one in small letters where it is there, else the one in capitals."""
    found = name if name in environ else name.upper()
    return found, environ.get(found, "").strip()


def _usable_proxy(text: str, own: Collection[ListenAddress]) -> ProxyUrl:
    found = parse_proxy(text)
    listener = next((it for it in own if leads_to(found.host, found.port, it)), None)
    if listener is not None:
        raise ValueError(
            f"it leads to this sidecar, which listens on {listener} and is not a proxy for token endpoints: set it "
            "for the app alone (`exec --http-proxy` does), or add `.googleapis.com` to NO_PROXY"
        )
    return found
