"""Cloud Run: a service or a job with the sidecar as its second container, in the YAML of `gcloud run … replace`.

Owns that shape. Sources: https://cloud.google.com/run/docs/reference/yaml/v1 (fields),
https://cloud.google.com/run/docs/deploying#sidecars (one ingress container, container-dependencies),
https://cloud.google.com/run/docs/configuring/healthchecks (probes; a startup probe may take 240 s),
https://cloud.google.com/run/docs/monitoring-managed-prometheus-sidecar (the collector).
"""

from __future__ import annotations

import json
from typing import Final

from sidecar.config.load import PREFIX
from sidecar.config.quantities import format_duration
from sidecar.manifest.plan import (
    CONFIG_DIRECTORY,
    ManifestError,
    Plan,
    Quoted,
    Written,
    as_yaml,
    variables,
)
from sidecar.manifest.templates import filled

COLLECTOR_IMAGE: Final = (
    "us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar:1.2.0"
)
_LONGEST_START: Final = 240
_PERIOD: Final = 2
"""Seconds between two startup probes."""
_SHORTEST_ACCOUNT: Final = 6
_LONGEST_ACCOUNT: Final = 30
"""Characters: https://cloud.google.com/iam/docs/service-accounts-create"""
_KILLED_AFTER: Final = 10


def service(plan: Plan, *, metrics: bool = False) -> str:
    """A service; with `metrics` the collector of Managed Service for Prometheus beside it. Raises ManifestError."""
    _check(plan)
    dependencies = {plan.name: ["idtoken-sidecar"]}
    if metrics:
        # Stopped in the reverse order: the collector's last scrape still finds the sidecar.
        dependencies["collector"] = ["idtoken-sidecar"]
    return filled(
        "cloud-run/service.yaml",
        name=plan.name,
        project=plan.project,
        why_secret=plan.not_in_variables(),
        metrics=metrics,
        dependencies=json.dumps(dependencies),
        app_image=plan.app_image,
        app_environment=_app_environment(plan),
        ca_directory=plan.ca_directory,
        sidecar=_sidecar(plan, liveness=True),
        collector_image=COLLECTOR_IMAGE,
        volumes=_volumes(plan, metrics=metrics),
    )


def job(plan: Plan) -> str:
    """A job. The task is done when the app's container ends, which then stops the sidecar. Raises ManifestError."""
    _check(plan)
    return filled(
        "cloud-run/job.yaml",
        name=plan.name,
        project=plan.project,
        why_secret=plan.not_in_variables(),
        dependencies=json.dumps({plan.name: ["idtoken-sidecar"]}),
        app_image=plan.app_image,
        app_environment=_app_environment(plan),
        ca_directory=plan.ca_directory,
        admin_port=plan.admin_port,
        sidecar=_sidecar(plan, liveness=False),
        volumes=_volumes(plan, metrics=False),
    )


def run_monitoring(plan: Plan) -> str:
    """What the collector reads from /etc/rungmp/config.yaml."""
    return filled("cloud-run/run-monitoring.yaml", admin_port=plan.admin_port)


def _check(plan: Plan) -> None:
    plan.require("image", "app_image", "project")
    if not _SHORTEST_ACCOUNT <= len(plan.name) <= _LONGEST_ACCOUNT:
        raise ManifestError(
            f"`{plan.name}` can't be the name of the service account that it runs as, which has {_SHORTEST_ACCOUNT} "
            f"to {_LONGEST_ACCOUNT} characters: give it another one, such as --name my-app"
        )
    if plan.config.drain.max >= _KILLED_AFTER:
        raise ManifestError(
            f"`drain.max` is {format_duration(plan.config.drain.max)}, and Cloud Run kills an instance "
            f"{_KILLED_AFTER} s after SIGTERM: leave `drain` out, or stay below"
        )


def _app_environment(plan: Plan) -> str:
    urls = plan.base_urls()
    if not (found := plan.app_environment()):
        return "[]"
    warning = "# NAME.localhost needs a resolver that knows it: else give the route a `listen` of its own.\n"
    return (warning if any(".localhost:" in url for url in urls.values()) else "") + variables(found)


def _sidecar(plan: Plan, *, liveness: bool) -> str:
    from_secret = plan.not_in_variables() is not None
    arguments = ["run", f"--config={CONFIG_DIRECTORY}/config.yaml"] if from_secret else ["run"]
    return filled(
        "cloud-run/container.yaml",
        image=plan.image,
        project=plan.project,
        arguments=json.dumps(arguments),
        environment=variables(_sidecar_environment(plan)),
        admin_port=plan.admin_port,
        period=_PERIOD,
        failures=min(_LONGEST_START, plan.startup_seconds) // _PERIOD,
        liveness=liveness,
        from_secret=from_secret,
        config_directory=CONFIG_DIRECTORY,
        ca_directory=plan.ca_directory,
        mounts=from_secret or plan.ca_directory is not None,
    )


def _sidecar_environment(plan: Plan) -> dict[str, str]:
    # Only the ingress container's port can be reached from outside the instance; probes want all interfaces.
    found: dict[str, str] = {f"{PREFIX}ADMIN": Quoted(f"0.0.0.0:{plan.admin_port}")}
    if plan.not_in_variables() is None:
        for name, value in plan.settings().items():
            if name != "admin":
                found[f"{PREFIX}{name.upper()}"] = _setting(value)
    return found


def _setting(value: object) -> str:
    if isinstance(value, dict | list):
        return Written(as_yaml(value))
    if isinstance(value, bool):
        return Quoted("on" if value else "off")
    return Quoted(value)


def _volumes(plan: Plan, *, metrics: bool) -> str:
    from_secret = plan.not_in_variables() is not None
    ca = plan.ca_directory is not None
    if not from_secret and not metrics and not ca:
        return ""
    return filled("cloud-run/volumes.yaml", from_secret=from_secret, metrics=metrics, ca=ca)
