"""Deploy it: `manifest` and `completion`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sidecar.cli.options import Given, configured
from sidecar.cli.output import EXIT_CODES, give_up
from sidecar.grammar.contents import place, quoted

if TYPE_CHECKING:
    from sidecar.manifest.plan import Plan


@click.group()
def manifest() -> None:
    """Print what a platform needs to run the sidecar, from your own configuration.

    \b
    idtoken-sidecar manifest cloud-run --config config.yaml > service.yaml
    idtoken-sidecar manifest iam --config config.yaml --member serviceAccount:app@p.iam.gserviceaccount.com | sh
    """


def _planned(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the configuration's options and those of every manifest; it is called with a `manifest.Plan`."""

    @configured
    @wraps(command)
    def called(given: Given, *, name: str, image: str, app_image: str, **others: Any) -> None:
        command(_plan(given, name, image, app_image), **others)

    function: Callable[..., None] = called
    for option, default, text in (
        ("app-image", "", "The app's image."),
        ("image", "", "The sidecar's image."),
        ("name", "app", "Name of the service, deployment or job."),
    ):
        function = click.option(f"--{option}", metavar=option.upper(), default=default, help=text)(function)
    return function


def _plan(given: Given, name: str, image: str, app_image: str) -> Plan:
    from sidecar.config.document import given as written
    from sidecar.manifest.plan import Plan

    loaded = given.load()
    if re.fullmatch(r"[a-z]([a-z0-9-]{0,47}[a-z0-9])?", name) is None:
        give_up(f"--name: {quoted(name)} is not a name of lower-case letters, digits and `-`")
    text = written(loaded.config) if given.to or given.flags or not given.file else given.text()
    images = {key: value for key, value in (("image", image), ("app_image", app_image)) if value}
    return Plan(loaded.config, text, name=name, **images)


def _print(write: Callable[[], str]) -> None:
    from sidecar.manifest.plan import ManifestError

    try:
        click.echo(write(), nl=False)
    except ManifestError as error:
        give_up(str(error))


@manifest.command("cloud-run", epilog=EXIT_CODES)
@click.option("--job", is_flag=True, help="A job instead of a service.")
@click.option("--metrics", is_flag=True, help="With the collector of Managed Service for Prometheus.")
@click.option("--run-monitoring", is_flag=True, help="Print what that collector reads.")
@_planned
def manifest_cloud_run(plan: Plan, job: bool, metrics: bool, run_monitoring: bool) -> None:
    """A Cloud Run service (or job) with the sidecar as its second container.

    \b
    idtoken-sidecar manifest cloud-run --config config.yaml > service.yaml
    gcloud run services replace service.yaml --region=europe-west1
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
@click.option("--patch", is_flag=True, help="Only the patch for a workload that is there already.")
@click.option("--component", metavar="DIR", help="Write a kustomize component into this directory instead.")
@_planned
def manifest_gke(plan: Plan, job: bool, patch: bool, component: str | None) -> None:
    """A Deployment (or Job) with the sidecar as a native one, its ConfigMap, PodMonitoring and NetworkPolicy.

    \b
    idtoken-sidecar manifest gke --config config.yaml | kubectl apply -f -
    idtoken-sidecar manifest gke --config config.yaml --patch --name billing > sidecar.yaml
    kubectl patch deployment billing --patch-file=sidecar.yaml
    """
    from sidecar.manifest import kubernetes

    if component is not None:
        _write_files(component, kubernetes.component(plan))
    else:
        _print(lambda: kubernetes.pod_patch(plan) if patch else kubernetes.whole(plan, job=job))


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
    """A Compose file for a laptop: the app, the sidecar and a stand-in for Google.

    \b
    idtoken-sidecar manifest compose --config config.yaml > compose.yaml && docker compose up
    """
    from sidecar.manifest import machine

    _print(lambda: machine.compose(plan))


@manifest.command("iam", epilog=EXIT_CODES)
@click.option(
    "--member",
    default="serviceAccount:APP@PROJECT.iam.gserviceaccount.com",
    show_default=True,
    help="Who the sidecar runs as: the principal that `adc` and `metadata` stand for.",
)
@click.option("--terraform", is_flag=True, help="Terraform resources instead of gcloud lines.")
@configured
def manifest_iam(given: Given, member: str, terraform: bool) -> None:
    """What must be granted for the routes to work, and nothing more.

    \b
    idtoken-sidecar manifest iam --config config.yaml --member serviceAccount:app@p.iam.gserviceaccount.com
    """
    loaded = given.load()
    if (
        re.fullmatch(r"(serviceAccount|user|group|domain):[^\s'\"\\]+|principal(Set)?://[^\s'\"\\]+", member)
        is None
    ):
        give_up(
            f"--member: {quoted(member)} is not a principal such as serviceAccount:app@p.iam.gserviceaccount.com"
        )
    from sidecar.manifest import grants

    write = grants.as_terraform if terraform else grants.as_gcloud
    click.echo(write(loaded.config, member), nl=False)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell; it knows commands, options and the names of routes.

    \b
    idtoken-sidecar completion bash > /etc/bash_completion.d/idtoken-sidecar
    idtoken-sidecar completion zsh > "${fpath[1]}/_idtoken-sidecar"
    idtoken-sidecar completion fish > ~/.config/fish/completions/idtoken-sidecar.fish
    """
    click.echo(completion_script(context.find_root().command, shell), nl=False)


def completion_script(command: click.Command, shell: str) -> str:
    """What a shell is to read, so that it asks `command` for completions."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise ValueError(f"no completion for `{shell}`")
    return kind(command, {}, "idtoken-sidecar", "_IDTOKEN_SIDECAR_COMPLETE").source().rstrip("\n") + "\n"
