"""gcloud's directory of logins and settings.

Called by `adc` and `subject_sources`. It reads the environment only. Source: google-auth's `_cloud_sdk.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def gcloud_directory(environ: Mapping[str, str]) -> Path:
    """The directory in CLOUDSDK_CONFIG, else `.config/gcloud` in the home directory."""
    configured = environ.get("CLOUDSDK_CONFIG")
    if configured:
        return Path(configured)
    if home := environ.get("HOME"):
        return Path(home) / ".config" / "gcloud"
    try:
        return Path.home() / ".config" / "gcloud"
    except RuntimeError:  # a user without a name, as in most containers
        return Path("/.config/gcloud")
