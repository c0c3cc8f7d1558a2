"""gcloud's directory, where its logins and settings are.

Called by `adc` and `subject_sources`. It looks at the environment alone. Source: google-auth's `_cloud_sdk.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def gcloud_directory(environ: Mapping[str, str]) -> Path:
    """What CLOUDSDK_CONFIG names, else `.config/gcloud` at home."""
    configured = environ.get("CLOUDSDK_CONFIG")
    if configured:
        return Path(configured)
    if home := environ.get("HOME"):
        return Path(home) / ".config" / "gcloud"
    try:
        return Path.home() / ".config" / "gcloud"
    except RuntimeError:  # a user without a name, as in most containers
        return Path("/.config/gcloud")
