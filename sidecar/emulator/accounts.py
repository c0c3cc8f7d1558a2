"""People who have logged in with gcloud, as the token endpoint knows them.

Owns the users of the stand-in with their refresh tokens, and the file that a login leaves behind. Used by `oauth`;
serves nothing itself. Source: google-auth's `oauth2/credentials.py`; the file of `gcloud auth application-default
login`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

ADC_CLIENT_ID: Final = "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com"
"""The client id of `gcloud auth application-default login`."""
GCLOUD_CLIENT_ID: Final = "32555940559.apps.googleusercontent.com"
"""The client id of `gcloud auth login`."""
LOGIN_SCOPES: Final = (
    "openid",
    "https://www.googleapis.com/auth/userinfo.email",
    "https://www.googleapis.com/auth/cloud-platform",
)


@final
@dataclass
class User:
    """One login; its switches hold from the next request on."""

    email: str
    client_id: str = ADC_CLIENT_ID
    client_secret: str = field(default_factory=lambda: f"secret-{secrets.token_hex(8)}", repr=False)
    refresh_token: str = field(default_factory=lambda: f"1//emulated-{secrets.token_hex(16)}", repr=False)
    scopes: tuple[str, ...] = LOGIN_SCOPES
    revoked: bool = False
    session_ended: bool = False
    """The organisation's session length is up: `invalid_rapt`."""

    @property
    def member(self) -> str:
        """Its name in IAM."""
        return f"user:{self.email}"

    @property
    def subject(self) -> str:
        """The `sub` of its tokens."""
        return f"2{int(hashlib.sha256(self.email.encode()).hexdigest(), 16) % 10**20:020d}"

    def adc(self) -> dict[str, str]:
        """What `gcloud auth application-default login` writes."""
        return {
            "type": "authorized_user",
            "client_id": self.client_id,
            "client_secret": self.client_secret,
            "refresh_token": self.refresh_token,
            "universe_domain": "googleapis.com",
        }


def write_private(path: Path, content: object) -> Path:
    """Write JSON that nobody else can read."""
    with open(path, "w", encoding="utf-8", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        os.fchmod(file.fileno(), 0o600)
        json.dump(content, file, indent=2)
    return path
