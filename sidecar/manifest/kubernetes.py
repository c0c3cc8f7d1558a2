"""Kubernetes: the sidecar as a native one, as a patch for any pod, whole, or as a kustomize component.

Owns those shapes. Sources: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/ (an init container
with restartPolicy Always, from 1.29 on: started before the app's containers, stopped after them, no hindrance for a
Job's end), https://kubernetes.io/docs/concepts/security/pod-security-standards/ ("restricted"),
https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity (the metadata server's addresses for network
policies), https://cloud.google.com/stackdriver/docs/managed-prometheus/setup-managed (PodMonitoring).
"""

from __future__ import annotations

from collections.abc import Mapping

from sidecar.config.platform import DRAIN, Platform
from sidecar.manifest.plan import CONFIG_DIRECTORY, USER, Plan, variables
from sidecar.manifest.templates import filled


def whole(plan: Plan, *, job: bool = False, policy: bool = False) -> str:
    """Everything for one app: configuration, workload, monitoring, and with `policy` the network policy.

    Raises ManifestError.
    """
    plan.require("image", "app_image")
    workload = filled(
        "kubernetes/job.yaml" if job else "kubernetes/deployment.yaml",
        name=plan.name,
        grace=_grace(plan),
        sidecar=_sidecar(plan),
        app_image=plan.app_image,
        app_environment=_app_environment(plan) or "[]",
        ca_directory=plan.ca_directory,
    )
    config_map = filled("kubernetes/config-map.yaml", configuration=plan.text)
    return "---\n".join([config_map, workload, pod_monitoring(), *([network_policy()] if policy else [])])


def pod_patch(plan: Plan) -> str:
    """A patch that adds the sidecar to a workload with a pod template (Deployment, StatefulSet, DaemonSet, Job).

    Raises ManifestError.
    """
    plan.require("image")
    return filled(
        "kubernetes/patch.yaml",
        name=plan.name,
        grace=_grace(plan),
        sidecar=_sidecar(plan),
        app_environment=_app_environment(plan),
        ca_directory=plan.ca_directory,
    )


def component(plan: Plan, *, policy: bool = False) -> Mapping[str, str]:
    """The files of a kustomize component, by name. It works on every Deployment, StatefulSet, DaemonSet and Job.

    The app's base URLs are in a ConfigMap, because such a patch can't know the names of containers. Raises
    ManifestError.
    """
    plan.require("image")
    urls = "".join(f"- {name}={value}\n" for name, value in plan.app_environment().items())
    files = {
        "kustomization.yaml": filled(
            "kubernetes/kustomization.yaml",
            urls=urls or "[]",
            policy=policy,
            ca_directory=plan.ca_directory,
        ),
        "config.yaml": plan.text.rstrip("\n") + "\n",
        "sidecar.yaml": filled(
            "kubernetes/component.yaml",
            grace=_grace(plan),
            sidecar=_sidecar(plan),
            ca_directory=plan.ca_directory,
        ),
        "pod-monitoring.yaml": pod_monitoring(),
    }
    return {**files, "network-policy.yaml": network_policy()} if policy else files


def pod_monitoring() -> str:
    """Scraping by Managed Service for Prometheus."""
    return filled("kubernetes/pod-monitoring.yaml")


def network_policy() -> str:
    """Pods with the sidecar may connect only to HTTPS, the metadata server and DNS."""
    return filled("kubernetes/network-policy.yaml")


def _app_environment(plan: Plan) -> str:
    found = plan.app_environment()
    return variables(found) if found else ""


def _grace(plan: Plan) -> int:
    return max(30, round(max(plan.config.drain.max, DRAIN[Platform.KUBERNETES].max)) + 5)


def _sidecar(plan: Plan) -> str:
    return filled(
        "kubernetes/container.yaml",
        image=plan.image,
        admin_port=plan.admin_port,
        startup_seconds=plan.startup_seconds,
        config_directory=CONFIG_DIRECTORY,
        user=USER,
        ca_directory=plan.ca_directory,
    )
