"""Cloud Run: a service or a job with the sidecar as its second container, in the YAML of `gcloud run … replace`.

Owns that shape. Sources: https://cloud.google.com/run/docs/reference/yaml/v1 (fields),
https://cloud.google.com/run/docs/deploying#sidecars (one ingress container, container-dependencies),
https://cloud.google.com/run/docs/configuring/healthchecks (probes; a startup probe may take 240 s),
https://cloud.google.com/run/docs/monitoring-managed-prometheus-sidecar (the collector).
"""

from __future__ import annotations

import json
from typing import Final

import yaml

from sidecar.config.load import PREFIX
from sidecar.config.quantities import format_duration
from sidecar.manifest.plan import CONFIG_DIRECTORY, ManifestError, Plan, indented, quoted

COLLECTOR_IMAGE: Final = (
    "us-docker.pkg.dev/cloud-ops-agents-artifacts/cloud-run-gmp-sidecar/cloud-run-gmp-sidecar:1.2.0"
)
_SECRET: Final = "idtoken-sidecar-config"
_LONGEST_START: Final = 240
_KILLED_AFTER: Final = 10


def service(plan: Plan, *, metrics: bool = False) -> str:
    """A service; with `metrics` the collector of Managed Service for Prometheus beside it."""
    _check_drain(plan)
    dependencies = {plan.name: ["idtoken-sidecar"]}
    if metrics:
        # Stopped in the reverse order: the collector's last scrape still finds the sidecar.
        dependencies["collector"] = ["idtoken-sidecar"]
    volumes = _volumes(plan, metrics=metrics)
    return f"""\
# {plan.name} on Cloud Run, with idtoken-sidecar beside it:
#
{_steps(plan, metrics=metrics)}#   gcloud run services replace service.yaml --region=REGION
#
# Fill in what is in capitals. The app calls the base URLs in its environment, without any auth code.
apiVersion: serving.knative.dev/v1
kind: Service
metadata:
  name: {plan.name}
spec:
  template:
    metadata:
      annotations:
        # The app starts once the sidecar's startup probe passed, and is stopped before it.
        run.googleapis.com/container-dependencies: '{json.dumps(dependencies)}'
        # CPU between requests: tokens are renewed by a timer. Without it (cheaper), on use and by each probe.
        run.googleapis.com/cpu-throttling: "false"
    spec:
      serviceAccountName: {plan.name}@PROJECT.iam.gserviceaccount.com
      containers:
        - name: {plan.name}                     # the ingress container: the only one with a port
          image: {plan.app_image}
          ports:
            - containerPort: 8080
          env:
{indented(_app_environment(plan), 12)}
          resources:
            limits: {{cpu: "1", memory: 512Mi}}
{indented(_sidecar(plan, liveness=True), 8)}
{indented(_collector(), 8) + chr(10) if metrics else ""}{indented(volumes, 6) + chr(10) if volumes else ""}"""


def job(plan: Plan) -> str:
    """A job: the task is done when the app's container is, which then tells the sidecar to end."""
    _check_drain(plan)
    volumes = _volumes(plan, metrics=False)
    return f"""\
# A Cloud Run job with idtoken-sidecar beside it:
#
{_steps(plan, metrics=False)}#   gcloud run jobs replace job.yaml --region=REGION
#   gcloud run jobs execute {plan.name} --region=REGION
#
# A task ends when all of its containers have: the app's last step is a POST to the sidecar's /quit (any HTTP client
# will do), whatever came of its work. An image with Python can do without the second container: see deploy/cloud-build.
apiVersion: run.googleapis.com/v1
kind: Job
metadata:
  name: {plan.name}
spec:
  template:
    metadata:
      annotations:
        run.googleapis.com/container-dependencies: '{json.dumps({plan.name: ["idtoken-sidecar"]})}'
    spec:
      taskCount: 1
      template:
        spec:
          maxRetries: 1
          timeoutSeconds: 600
          serviceAccountName: {plan.name}@PROJECT.iam.gserviceaccount.com
          containers:
            - name: {plan.name}
              image: {plan.app_image}
              command: [/bin/sh, -c]
              args:
                - |
                  ./nightly; code=$?
                  curl --silent --request POST http://localhost:{plan.admin_port}/quit
                  exit $code
              env:
{indented(_app_environment(plan), 16)}
              resources:
                limits: {{cpu: "1", memory: 512Mi}}
{indented(_sidecar(plan, liveness=False), 12)}
{indented(volumes, 10) + chr(10) if volumes else ""}"""


def run_monitoring(plan: Plan) -> str:
    """What the collector reads from /etc/rungmp/config.yaml."""
    return f"""\
# For the collector in service-with-metrics.yaml:
#
#   gcloud secrets create idtoken-sidecar-monitoring --data-file=run-monitoring.yaml
apiVersion: monitoring.googleapis.com/v1beta
kind: RunMonitoring
metadata:
  name: idtoken-sidecar
spec:
  endpoints:
    - port: {plan.admin_port}
      path: /metrics
      interval: 30s
  targetLabels:
    metadata: [service, revision]
"""


def _check_drain(plan: Plan) -> None:
    if plan.config.drain.max >= _KILLED_AFTER:
        raise ManifestError(
            f"`drain.max` is {format_duration(plan.config.drain.max)}, and Cloud Run kills an instance "
            f"{_KILLED_AFTER} s after SIGTERM: leave `drain` out, or stay below"
        )


def _steps(plan: Plan, *, metrics: bool) -> str:
    lines = []
    if (why := plan.not_in_variables()) is not None:
        lines += [
            f"The configuration comes from Secret Manager: {why}.",
            f"  gcloud secrets create {_SECRET} --data-file=config.yaml",
        ]
    if metrics:
        lines.append("  gcloud secrets create idtoken-sidecar-monitoring --data-file=run-monitoring.yaml")
    return "".join(f"# {line}\n" for line in lines)


def _app_environment(plan: Plan) -> str:
    urls = plan.base_urls()
    lines = [f"- name: {name}\n  value: {url}" for name, url in urls.items()]
    if any(".localhost:" in url for url in urls.values()):
        lines.insert(
            0, "# NAME.localhost needs a resolver that knows it: else give the route a `listen` of its own."
        )
    return "\n".join(lines) if urls else "[]"


def _sidecar(plan: Plan, *, liveness: bool) -> str:
    period = 2
    failures = min(_LONGEST_START, plan.startup_seconds) // period
    lines = [
        "- name: idtoken-sidecar",
        f"  image: {plan.image}",
        f"  args: {json.dumps(_arguments(plan))}",
        "  env:",
        indented(_sidecar_environment(plan), 4),
        "  resources:",
        '    limits: {cpu: "1", memory: 256Mi}',
        "  startupProbe:",
        f"    httpGet: {{path: /healthz/startup, port: {plan.admin_port}}}",
        f"    periodSeconds: {period}",
        f"    timeoutSeconds: {period}",
        f"    failureThreshold: {failures}",
    ]
    if liveness:
        lines += [
            "  livenessProbe:                # each probe also has the tokens looked at",
            f"    httpGet: {{path: /healthz/live, port: {plan.admin_port}}}",
            "    periodSeconds: 30",
            "    timeoutSeconds: 5",
            "    failureThreshold: 3",
        ]
    if plan.not_in_variables() is not None:
        lines += ["  volumeMounts:", f"    - {{name: config, mountPath: {CONFIG_DIRECTORY}}}"]
    return "\n".join(lines)


def _arguments(plan: Plan) -> list[str]:
    if plan.not_in_variables() is not None:
        return ["run", f"--config={CONFIG_DIRECTORY}/config.yaml"]
    return ["run"]


def _sidecar_environment(plan: Plan) -> str:
    parts = [
        "# For request logs that belong to the app's trace.\n- name: GOOGLE_CLOUD_PROJECT\n  value: PROJECT"
    ]
    # Only the ingress container's port can be reached from outside the instance; probes want all interfaces.
    admin = quoted(f"0.0.0.0:{plan.admin_port}")
    parts.append(f"- name: {PREFIX}ADMIN\n  value: {admin}")
    if plan.not_in_variables() is None:
        for name, value in plan.settings().items():
            if name != "admin":
                parts.append(f"- name: {PREFIX}{name.upper()}\n  value: {_scalar(value)}")
    return "\n".join(parts)


def _scalar(value: object) -> str:
    if isinstance(value, dict | list):
        text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
        return f"|\n{indented(text, 4)}"
    if isinstance(value, bool):
        return quoted("on" if value else "off")
    return quoted(str(value))


def _collector() -> str:
    return f"""\
- name: collector
  image: {COLLECTOR_IMAGE}
  volumeMounts:
    - {{name: monitoring, mountPath: /etc/rungmp}}"""


def _volumes(plan: Plan, *, metrics: bool) -> str:
    wanted = []
    if plan.not_in_variables() is not None:
        wanted.append(("config", _SECRET))
    if metrics:
        wanted.append(("monitoring", "idtoken-sidecar-monitoring"))
    if not wanted:
        return ""
    return "volumes:\n" + "\n".join(
        f"  - name: {name}\n    secret:\n      secretName: {secret}\n"
        "      items:\n        - {key: latest, path: config.yaml}"
        for name, secret in wanted
    )
