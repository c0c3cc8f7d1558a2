"""Deploy it: `manifest` and `completion`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from sidecar.cli.near_misses import Group
from sidecar.cli.options import Given, configured
from sidecar.cli.output import EXIT_CODES, give_up
from sidecar.grammar.contents import place, quoted

if TYPE_CHECKING:
    from sidecar.manifest.plan import Plan

W = TypeVar("W")


@click.group(cls=Group)
def manifest() -> None:
    """Print what a platform needs to run the sidecar, from your own configuration.

    \b
    idtoken-sidecar manifest cloud-run -c config.yaml --name my-app --project PROJECT --image IMAGE --app-image IMAGE
    idtoken-sidecar manifest iam --config config.yaml --member serviceAccount:my-app@p.iam.gserviceaccount.com
    """


def _planned(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the configuration's options and those of every manifest. It is called with a `manifest.Plan`."""

    @configured
    @wraps(command)
    def called(
        given: Given, *, name: str, image: str, app_image: str, project: str = "", **others: Any
    ) -> None:
        command(_plan(given, name, image, app_image, project), **others)

    function: Callable[..., None] = called
    for option, default, text in (
        ("app-image", "", "The app's image."),
        ("image", "", "The sidecar's image."),
        ("name", "app", "Name of the service, deployment or job."),
    ):
        function = click.option(f"--{option}", metavar=option.upper(), default=default, help=text)(function)
    return function


_IN_MANIFEST: Final = {
    "name": (r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?", "a name of lower-case letters, digits and `-`"),
    "image": (r"([A-Za-z0-9][\w.:/@-]*)?", "an image, such as registry.example/idtoken-sidecar:1.0.0"),
    "app-image": (r"([A-Za-z0-9][\w.:/@-]*)?", "an image, such as registry.example/app:1.0.0"),
    "project": (r"([a-z][a-z0-9-]{4,28}[a-z0-9])?", "a project's ID, such as my-project"),
}
"""For each option: the pattern that its whole value must match, and what such a value is called."""


def _plan(given: Given, name: str, image: str, app_image: str, project: str) -> Plan:
    from sidecar.config.document import given as written
    from sidecar.manifest.plan import PORTS, Plan, by_name, with_ports

    loaded = given.load()
    given_here = {"name": name, "image": image, "app-image": app_image, "project": project}
    for option, value in given_here.items():
        pattern, what = _IN_MANIFEST[option]
        if re.fullmatch(pattern, value, re.ASCII) is None:
            give_up(f"--{option}: {quoted(value)} is not {what}")
    text = "" if given.to or given.flags or not given.file else given.text()
    if by_name(loaded.config):
        loaded = given._replace(flags={**given.flags, "listen": PORTS}).load()
        text = with_ports(text) if text else ""
    text = text or written(loaded.config)
    return Plan(loaded.config, text, name=name, image=image, app_image=app_image, project=project)


def _print(write: Callable[[], str]) -> None:
    click.echo(_written(write), nl=False)


def _written(write: Callable[[], W]) -> W:
    from sidecar.manifest.plan import ManifestError

    try:
        return write()
    except ManifestError as error:
        give_up(str(error))


@manifest.command("cloud-run", epilog=EXIT_CODES)
@click.option("--job", is_flag=True, help="A job instead of a service.")
@click.option("--metrics", is_flag=True, help="Add the collector of Managed Service for Prometheus.")
@click.option("--run-monitoring", is_flag=True, help="Print that collector's configuration.")
@click.option("--project", metavar="PROJECT", default="", help="The ID of the project to run in.")
@_planned
def manifest_cloud_run(plan: Plan, job: bool, metrics: bool, run_monitoring: bool) -> None:
    """A Cloud Run service (or job) with the sidecar as its second container.

    \b
    idtoken-sidecar manifest cloud-run -c config.yaml --name my-app --project PROJECT --image IMAGE --app-image IMAGE
    """
    from sidecar.manifest import cloud_run

    if run_monitoring:
        _print(lambda: cloud_run.run_monitoring(plan))
    elif job:
        _print(lambda: cloud_run.job(plan))
    else:
        _print(lambda: cloud_run.service(plan, metrics=metrics))


@manifest.command("gke", epilog=EXIT_CODES)
@click.option("--job", is_flag=True, help="A Job instead of a Deployment.")
@click.option("--patch", is_flag=True, help="Print only a patch for an existing workload.")
@click.option("--component", metavar="DIR", help="Write a kustomize component into this directory instead.")
@click.option(
    "--network-policy", is_flag=True, help="Add a NetworkPolicy. It also blocks the app's other traffic."
)
@_planned
def manifest_gke(plan: Plan, job: bool, patch: bool, component: str | None, network_policy: bool) -> None:
    """A Deployment (or Job) with the sidecar as a native one, its ConfigMap and PodMonitoring.

    \b
    idtoken-sidecar manifest gke --config config.yaml --image IMAGE --app-image IMAGE | kubectl apply -f -
    idtoken-sidecar manifest gke --config config.yaml --image IMAGE --patch --name billing > sidecar.yaml
    kubectl patch deployment billing --patch-file=sidecar.yaml
    """
    from sidecar.manifest import kubernetes

    if component is not None:
        _write_files(component, _written(lambda: kubernetes.component(plan, policy=network_policy)))
    elif patch:
        _print(lambda: kubernetes.pod_patch(plan))
    else:
        _print(lambda: kubernetes.whole(plan, job=job, policy=network_policy))


def _write_files(directory: str, files: Mapping[str, str]) -> None:
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (Path(directory) / name).write_text(text, "utf-8")
            click.echo(str(Path(directory) / name))
    except OSError as error:
        give_up(f"{place(directory)}: {error.strerror}")


@manifest.command("systemd", epilog=EXIT_CODES)
@click.option("--socket", "sockets", is_flag=True, help="Print the socket unit instead of the service.")
@_planned
def manifest_systemd(plan: Plan, sockets: bool) -> None:
    """A hardened, socket-activated systemd service for a VM.

    \b
    idtoken-sidecar manifest systemd --config config.yaml > /etc/systemd/system/idtoken-sidecar.service
    idtoken-sidecar manifest systemd --config config.yaml --socket > /etc/systemd/system/idtoken-sidecar.socket
    """
    from sidecar.manifest import machine

    _print(lambda: machine.socket_unit(plan) if sockets else machine.service_unit(plan))


@manifest.command("compose", epilog=EXIT_CODES)
@_planned
def manifest_compose(plan: Plan) -> None:
    """A Compose file for a laptop: the app, the sidecar and an emulator of Google.

    \b
    idtoken-sidecar manifest compose --config config.yaml --image IMAGE --app-image IMAGE > compose.yaml
    docker compose up
    """
    from sidecar.manifest import machine

    _print(lambda: machine.compose(plan))


_PRINCIPAL: Final = r"(serviceAccount|user|group|domain):[^\s'\"\\]+|principal(Set)?://[^\s'\"\\]+"
_BY_NAME: Final = {
    "principal": (
        _PRINCIPAL,
        "The principal of a credential whose file does not name it: CREDENTIAL=PRINCIPAL.",
    ),
    "service": (r"[a-z][a-z0-9_-]*", "The service or function of a route, if its host does not name it."),
    "region": (r"[a-z]+-[a-z]+[0-9]+", "The region of that service, if the host does not name it."),
    "resource-type": (
        r"[a-z][a-z-]*",
        "The type of resource behind IAP, as gcloud calls it: backend-services.",
    ),
}
"""For each option: the pattern that its value must match, and its help. All are `NAME=VALUE`, or `VALUE` for all."""


def _by_name(function: Callable[..., None]) -> Callable[..., None]:
    for name, (_, text) in reversed(_BY_NAME.items()):
        metavar = "[NAME=]VALUE" if name != "principal" else "NAME=VALUE"
        function = click.option(f"--{name}", metavar=metavar, multiple=True, help=text)(function)
    return function


def _values_by_name(option: str, given: Sequence[str], names: Iterable[str]) -> dict[str, str]:
    pattern, known, found = _BY_NAME[option][0], list(names), {}
    for word in given:
        name, equals, value = word.partition("=")
        name, value = (name, value) if equals else ("", word)
        if (name or option == "principal") and name not in known:
            give_up(f"--{option}: {quoted(name)} is none of {', '.join(known)}")
        if re.fullmatch(pattern, value, re.ASCII) is None:
            give_up(f"--{option}: {quoted(value)} is no {option.replace('-', ' ')}")
        found[name] = value
    return found


@manifest.command("iam", epilog=EXIT_CODES)
@click.option(
    "--member",
    metavar="PRINCIPAL",
    help="Who the sidecar runs as: the account of `adc` and `metadata`.",
)
@_by_name
@click.option("--terraform", is_flag=True, help="Terraform resources instead of gcloud lines.")
@configured
def manifest_iam(
    given: Given,
    member: str | None,
    principal: tuple[str, ...],
    service: tuple[str, ...],
    region: tuple[str, ...],
    resource_type: tuple[str, ...],
    terraform: bool,
) -> None:
    """Print the grants that the routes need, and no more.

    If the configuration does not say enough, it stops and names the option that you must add.

    \b
    idtoken-sidecar manifest iam -c config.yaml --member serviceAccount:my-app@p.iam.gserviceaccount.com > grants.sh
    sh grants.sh
    """
    config = given.load().config
    if member is not None and re.fullmatch(_PRINCIPAL, member, re.ASCII) is None:
        give_up(
            f"--member: {quoted(member)} is not a principal such as serviceAccount:my-app@p.iam.gserviceaccount.com"
        )
    from sidecar.manifest import grants

    routes = [route.name for route in config.routes]
    known = grants.Known(
        member=member,
        principals=_values_by_name("principal", principal, config.credentials),
        services=_values_by_name("service", service, routes),
        regions=_values_by_name("region", region, routes),
        resource_types=_values_by_name("resource-type", resource_type, routes),
    )
    write = grants.as_terraform if terraform else grants.as_gcloud
    _print(lambda: write(config, known))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell. It completes commands, options and the names of routes.

    \b
    idtoken-sidecar completion bash > /etc/bash_completion.d/idtoken-sidecar
    idtoken-sidecar completion zsh > "${fpath[1]}/_idtoken-sidecar"
    idtoken-sidecar completion fish > ~/.config/fish/completions/idtoken-sidecar.fish
    """
    click.echo(completion_script(context.find_root().command, shell), nl=False)


def completion_script(command: click.Command, shell: str) -> str:
    """The script that makes a shell ask `command` for completions."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"no completion for `{shell}`")
    return kind(command, {}, "idtoken-sidecar", "_IDTOKEN_SIDECAR_COMPLETE").source().rstrip("\n") + "\n"
