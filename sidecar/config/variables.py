"""Environment variables that other programs define and the sidecar follows.

Owns what they may hold. Called by `load`, which judges them where a credential follows them, and by `tokens` for what
they say. Pure: the environment comes in. The rule: a value whose meaning is plain is taken, whatever stands around it;
any other is an error that names the variable and what to set, as a key of the configuration would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.grammar import hosts
from sidecar.grammar.contents import kind_of, quoted

METADATA_VARIABLES: Final = ("GCE_METADATA_HOST", "GCE_METADATA_ROOT")
"""Say where the metadata server is; the first that is set counts, as google-auth reads them."""
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
