"""Kubernetes: the sidecar as a native one, as a patch for any pod, whole, or as a kustomize component.

Owns those shapes. Sources: https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/ (an init container
with restartPolicy Always, from 1.29 on: started before the app's containers, stopped after them, no hindrance for a
Job's end), https://kubernetes.io/docs/concepts/security/pod-security-standards/ ("restricted"),
https://cloud.google.com/kubernetes-engine/docs/how-to/workload-identity (the metadata server's addresses for network
policies), https://cloud.google.com/stackdriver/docs/managed-prometheus/setup-managed (PodMonitoring).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sidecar.config.load import PREFIX
from sidecar.config.platform import DRAIN, Platform
from sidecar.manifest.plan import CONFIG_DIRECTORY, USER, Plan, indented, quoted

CONFIG_MAP: Final = "idtoken-sidecar"
_MARK: Final = 'idtoken-sidecar: "true"'
"""The pod label that monitoring and network policy go by."""


def whole(plan: Plan, *, job: bool = False) -> str:
    """Everything for one app: configuration, workload, monitoring, network policy."""
    workload = _job(plan) if job else _deployment(plan)
    return "---\n".join([_config_map(plan), workload, pod_monitoring(), network_policy()])


def pod_patch(plan: Plan) -> str:
    """What turns a workload with a pod template (Deployment, StatefulSet, DaemonSet, Job) into one with the sidecar."""
    environment = _app_environment(plan)
    app = (
        f"""      containers:
        - name: {plan.name}
          env:
{indented(environment, 12)}
"""
        if environment
        else ""
    )
    return f"""\
# kubectl patch deployment {plan.name} --patch-file=sidecar.yaml
spec:
  template:
    metadata:
      labels:
        {_MARK}
    spec:
{_pod(plan)}{app}"""


def component(plan: Plan) -> Mapping[str, str]:
    """The files of a kustomize component, by name; it works on every Deployment, StatefulSet, DaemonSet and Job."""
    patches = "\n".join(
        f"""\
  - target: {{kind: {kind}}}
    path: sidecar.yaml"""
        for kind in ("Deployment", "StatefulSet", "DaemonSet", "Job")
    )
    anything = Plan(plan.config, plan.text, "ignored", plan.image)
    patch = f"""\
# The sidecar in any pod; the name is replaced by that of the workload which it is applied to.
kind: Any
metadata:
  name: any
spec:
  template:
    metadata:
      labels:
        {_MARK}
    spec:
{_pod(anything)}"""
    return {
        "kustomization.yaml": f"""\
# Adds idtoken-sidecar to every workload of the overlay that lists it under `components`.
# `kubectl apply -k` gives the ConfigMap a name by its content: a changed configuration rolls the pods. For a reload in
# place instead, set `disableNameSuffixHash: true` below.
apiVersion: kustomize.config.k8s.io/v1alpha1
kind: Component
configMapGenerator:
  - name: {CONFIG_MAP}
    files: [config.yaml]
    options: {{disableNameSuffixHash: false}}
resources:
  - pod-monitoring.yaml
  - network-policy.yaml
patches:
{patches}
""",
        "config.yaml": plan.text.rstrip("\n") + "\n",
        "sidecar.yaml": patch,
        "pod-monitoring.yaml": pod_monitoring(),
        "network-policy.yaml": network_policy(),
    }


def pod_monitoring() -> str:
    """Scraping by Managed Service for Prometheus."""
    return f"""\
apiVersion: monitoring.googleapis.com/v1
kind: PodMonitoring
metadata:
  name: idtoken-sidecar
spec:
  selector:
    matchLabels:
      {_MARK}
  endpoints:
    - port: idtoken-admin
      path: /metrics
      interval: 30s
"""


def network_policy() -> str:
    """Pods with the sidecar may go out to HTTPS, the metadata server and DNS, and to nothing else."""
    return f"""\
# A policy sees pods and not containers: the app could use these ways too, but has no token there. It takes effect where
# the cluster enforces network policies (Dataplane V2, or Calico).
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: idtoken-sidecar
spec:
  podSelector:
    matchLabels:
      {_MARK}
  policyTypes: [Egress]
  egress:
    - to:                               # DNS
        - namespaceSelector: {{}}
          podSelector:
            matchLabels:
              k8s-app: kube-dns
        - ipBlock: {{cidr: 169.254.20.10/32}}     # NodeLocal DNSCache
      ports:
        - {{protocol: UDP, port: 53}}
        - {{protocol: TCP, port: 53}}
    - to:                               # GKE's metadata server, where tokens come from
        - ipBlock: {{cidr: 169.254.169.254/32}}   # Dataplane V2
        - ipBlock: {{cidr: 169.254.169.252/32}}   # without it
      ports:
        - {{protocol: TCP, port: 80}}
        - {{protocol: TCP, port: 988}}
    - ports:                            # the targets; narrow it by `to` where they have fixed addresses
        - {{protocol: TCP, port: 443}}
"""


def _config_map(plan: Plan) -> str:
    return f"""\
apiVersion: v1
kind: ConfigMap
metadata:
  name: {CONFIG_MAP}
data:
  config.yaml: |
{indented(plan.text, 4)}
"""


def _deployment(plan: Plan) -> str:
    return f"""\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {plan.name}
spec:
  selector:
    matchLabels: {{app: {plan.name}}}
  template:
    metadata:
      labels:
        app: {plan.name}
        {_MARK}
    spec:
{_pod(plan)}{_app(plan, depth=6)}"""


def _job(plan: Plan) -> str:
    return f"""\
apiVersion: batch/v1
kind: Job
metadata:
  name: {plan.name}
spec:
  template:
    metadata:
      labels:
        app: {plan.name}
        {_MARK}
    spec:
      restartPolicy: Never              # the sidecar is no hindrance: the kubelet stops it when the app has ended
{_pod(plan)}{_app(plan, depth=6)}"""


def _app(plan: Plan, *, depth: int) -> str:
    environment = _app_environment(plan)
    lines = f"""\
containers:
  - name: {plan.name}
    image: {plan.app_image}
    env:
{indented(environment, 6) if environment else "      []"}
    securityContext:
{indented(_restricted(), 6)}
"""
    return indented(lines, depth) + "\n"


def _app_environment(plan: Plan) -> str:
    return "\n".join(f"- name: {name}\n  value: {url}" for name, url in plan.base_urls().items())


def _pod(plan: Plan) -> str:
    grace = max(30, round(max(plan.config.drain.max, DRAIN[Platform.KUBERNETES].max)) + 5)
    image_lines = (
        f"""\
serviceAccountName: {plan.name}         # bound to a Google service account by Workload Identity Federation for GKE
"""
        if plan.name != "ignored"
        else ""
    )
    lines = f"""\
{image_lines}terminationGracePeriodSeconds: {grace}
initContainers:
  - name: idtoken-sidecar
    image: {plan.image}
    restartPolicy: Always               # a native sidecar: up before the app's containers, stopped after them
    args: ["run", "--config={CONFIG_DIRECTORY}/config.yaml"]
    env:
      # The kubelet and Prometheus come by the pod's address; the proxy itself stays on loopback.
      - name: {PREFIX}ADMIN
        value: {quoted(f"0.0.0.0:{plan.admin_port}")}
    ports:
      - {{name: idtoken-admin, containerPort: {plan.admin_port}}}
    startupProbe:
      httpGet: {{path: /healthz/startup, port: idtoken-admin}}
      periodSeconds: 1
      failureThreshold: {plan.startup_seconds}
    livenessProbe:
      httpGet: {{path: /healthz/live, port: idtoken-admin}}
      periodSeconds: 10
      timeoutSeconds: 5
      failureThreshold: 3
    readinessProbe:
      httpGet: {{path: /healthz/ready, port: idtoken-admin}}
      periodSeconds: 5
    resources:
      requests: {{cpu: 50m, memory: 96Mi}}
      limits: {{memory: 256Mi}}
    securityContext:
{indented(_restricted(), 6)}
      readOnlyRootFilesystem: true
      runAsUser: {USER}
      runAsGroup: {USER}
    volumeMounts:
      - {{name: idtoken-sidecar, mountPath: {CONFIG_DIRECTORY}, readOnly: true}}
volumes:
  - name: idtoken-sidecar
    configMap: {{name: {CONFIG_MAP}}}
"""
    return indented(lines, 6) + "\n"


def _restricted() -> str:
    """What the Pod Security Standard "restricted" demands of a container."""
    return """\
allowPrivilegeEscalation: false
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}"""
