"""Which platform this process runs on, and what follows for its defaults.

Owns the detection by the variables that platforms set, and how each of them stops a container. Called by `load`.
Pure: the environment comes in. Sources: Cloud Run's container runtime contract (K_SERVICE, CLOUD_RUN_JOB; SIGKILL 10
seconds after SIGTERM), Kubernetes' terminationGracePeriodSeconds (30 by default; native sidecars stop after the
app's containers).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class Platform(StrEnum):
    """Where the sidecar runs, as far as that changes a default."""

    CLOUD_RUN = "cloud_run"
    CLOUD_RUN_JOB = "cloud_run_job"
    KUBERNETES = "kubernetes"
    OTHER = "other"


class DrainTimes(NamedTuple):
    """Seconds; see `models.Drain`."""

    min: float
    max: float


DRAIN: Final[Mapping[Platform, DrainTimes]] = {
    # All containers of an instance, and of a pod but for native sidecars, get SIGTERM together: the app finishes its
    # requests with the sidecar's help. Elsewhere, too, an app with keep-alive connections needs time to hear on each of
    # them that it closes: what it sends on one that has just been closed is lost.
    Platform.CLOUD_RUN: DrainTimes(4.0, 8.0),
    Platform.CLOUD_RUN_JOB: DrainTimes(2.0, 8.0),
    Platform.KUBERNETES: DrainTimes(4.0, 25.0),
    Platform.OTHER: DrainTimes(2.0, 8.0),
}


def detect_platform(environ: Mapping[str, str]) -> Platform:
    """The platform that set these variables."""
    if environ.get("K_SERVICE"):
        return Platform.CLOUD_RUN
    if environ.get("CLOUD_RUN_JOB"):
        return Platform.CLOUD_RUN_JOB
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return Platform.KUBERNETES
    return Platform.OTHER
