"""Which front end judges a request.

Owns the way from a target's kind to its front end; the verdicts and answers are theirs. Called by `targets` for each
request.
"""

from __future__ import annotations

from sidecar.emulator.asked import Asked
from sidecar.emulator.front_cloud_run import check_cloud_run
from sidecar.emulator.front_espv2 import check_espv2
from sidecar.emulator.front_googleapis import check_googleapis
from sidecar.emulator.front_iap import check_iap
from sidecar.emulator.verdicts import Admitted, Judge


def check(asked: Asked, judge: Judge) -> Admitted:
    """Who calls, and the headers for the app; raises RefusedError."""
    match judge.settings.kind:
        case "cloud_run" | "cloud_functions":
            return check_cloud_run(asked, judge)
        case "iap":
            return check_iap(asked, judge)
        case "api_gateway" | "endpoints":
            return check_espv2(asked, judge)
        case "googleapis":
            return check_googleapis(asked, judge)
        case "open":
            return Admitted(None)
