"""Compare the cost of idtoken-sidecar with those of Envoy, Go and nginx: `make bench`.

Owns: the command line, the order of the parts, where the report goes.
Called by: people, through `make bench`; it is no test and no CI step.
May not: need anything but the standard library: it runs outside the product's virtual environment.
Rule: benchmarks/README.md says how the numbers come about; what is done here and what it says must agree.
"""

import argparse
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import charts
import environments
import idle
import in_memory
import latency
import live
import report
import rest
import routes
import shapes
import tokens
from figures import size
from http2 import Http2Bench
from machine import (
    DEBIAN_PACKAGES,
    HTTP2_PACKAGES,
    alone,
    checkout,
    describe,
    provide_envoy,
    provide_go,
    provide_peer,
    provide_programs,
    say,
)
from measure import Bench, Plan
from process import Cores, RunError
from products import CHECKOUT, REPOSITORY, Installed, Product, catalogue, command, has_program

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"
RESULTS = HERE / "results"
PRODUCTS = ("sidecar", "compiled", "earlier", "envoy", "go", "nginx", "nghttpx")
CHARTS = REPOSITORY / "docs" / "performance"
MEMORY_REQUESTS = 300_000
STREAM_BYTES, QUICK_STREAM_BYTES = 2**30, 2**24
Kinds = Sequence[str]


def _small(bench: Bench, kinds: Kinds, _: str) -> None:
    for kind in kinds:
        bench.small_requests(tls=kind == "tls")


def _streams(bench: Bench, kinds: Kinds, _: str) -> None:
    for kind in kinds:
        bench.streams(tls=kind == "tls")


def _http2(bench: Bench, kinds: Kinds, _: str) -> None:
    part = Http2Bench(bench)
    for kind in kinds:
        part.requests(tls=kind == "tls")
    part.calls()
    for kind in kinds:
        part.streams(tls=kind == "tls")


def _latency(bench: Bench, kinds: Kinds, peer: str) -> None:
    for kind in kinds:
        latency.measure(bench, peer, tls=kind == "tls")


PARTS: dict[str, Callable[[Bench, Kinds, str], None]] = {
    "small": _small,
    "shapes": lambda bench, _, peer: shapes.measure(bench, peer),
    "streams": _streams,
    "http2": _http2,
    "live": lambda bench, _, peer: live.measure(bench, peer),
    "latency": _latency,
    "routes": lambda bench, _, peer: routes.measure(bench),
    "tokens": lambda bench, _, peer: tokens.measure(bench, peer),
    "idle": lambda bench, _, peer: idle.measure(bench),
    "rest": lambda bench, _, peer: rest.measure(bench),
}
"""Each with the kinds of upstream that were asked for, and the program of `peer`."""
MINUTES = {
    "small": 6,
    "shapes": 12,
    "streams": 4,
    "http2": 15,
    "live": 6,
    "latency": 7,
    "routes": 3,
    "tokens": 7,
    "idle": 1,
    "rest": 2,
}
"""That each takes with six contenders and seven rounds, roughly, on a machine with nothing else to do."""
CONTENDERS = 6
NEED_PEER = {"shapes", "live", "latency", "tokens"}


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one short round of everything, to see that it works; the report stays in .work",
    )
    _add_choices(parser)
    _add_amounts(parser)
    _add_places(parser)
    return parser.parse_args(argv)


def _add_choices(parser: argparse.ArgumentParser) -> None:
    for name, known in (("only", PRODUCTS), ("parts", tuple(PARTS)), ("upstream", ("plain", "tls"))):
        parser.add_argument(
            f"--{name}", type=_names(known), default=known, metavar="NAMES", help=f"of {','.join(known)}"
        )
    parser.add_argument(
        "--against", metavar="COMMIT", help="measure the sidecar of this commit too, as the product `earlier`"
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="only the proxy's own CPU time for a request, between two transports in memory: tells 0.1 µs",
    )
    parser.add_argument("--bytes", action="store_true", help="with --memory: 1 GiB each way, too")


def _add_amounts(parser: argparse.ArgumentParser) -> None:
    for name, text in (
        ("rounds", "rounds of each row (default 7, quick 1, in memory 15)"),
        ("requests", "requests a round, at least (default 100000, quick 1000)"),
        ("stream-rounds", "transfers each way (default 3, quick 1)"),
    ):
        parser.add_argument(f"--{name}", type=int, help=text)


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--python",
        metavar="PYTHON",
        help="a FILE, for which the sidecar is installed below .work, pure and compiled; `own`: the checkout's .venv"
        " and build/compiled; `image`: Debian 12's /usr/bin/python3.11 (by default `image` where it is, else `own`)",
    )
    parser.add_argument(
        "--product-command",
        default="",
        metavar="COMMAND",
        help="a stand-in for the sidecar; {config} {port} {admin_port} {upstream_port} {ca_file} are filled in",
    )
    for name, metavar, text in (
        ("output", "FILE", "where the report goes, with JSON of the same name beside it (results/DATE.md)"),
        ("charts", "DIRECTORY", "where the charts go (docs/performance)"),
        ("work", "DIRECTORY", "where everything else is written (.work)"),
    ):
        default = WORK if name == "work" else None
        parser.add_argument(f"--{name}", type=_absolute, default=default, metavar=metavar, help=text)


def _absolute(text: str) -> Path:
    return Path(text).resolve()


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        asked = text.split(",")
        if unknown := set(asked) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
        return tuple(name for name in known if name in asked)

    return names


def main() -> int:
    """Run it all; 0 when everything was measured, whatever the numbers; 2 when it couldn't be, or somebody is out."""
    asked = arguments()
    # A terminated run must end its children too: turn the signal into the exception that unwinds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with alone(asked.work):
            if asked.memory:
                print(_in_memory(asked))
                return 0
            report_path, complete = _run(asked)
    except RunError as error:
        print(f"benchmarks/run.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    say(f"written to {os.path.relpath(report_path)}")
    return 0 if complete else 2


def _in_memory(asked: argparse.Namespace) -> str:
    earlier = asked.against and checkout(asked.work / "earlier", asked.against, in_memory.PARTS)
    return in_memory.compare(
        _installed(asked, ["pure"]).python,
        REPOSITORY,
        earlier,
        commit=asked.against or "",
        rounds=asked.rounds or in_memory.ROUNDS,
        with_bytes=asked.bytes,
    )


def _run(asked: argparse.Namespace) -> tuple[Path, bool]:
    """Where the report is, and whether every contender stayed in."""
    provide_programs([*DEBIAN_PACKAGES, *(HTTP2_PACKAGES if "http2" in asked.parts else ())])
    installed = _installed(asked, environments.BUILDS if "compiled" in asked.only else ["pure"])
    envoy = provide_envoy(asked.work) if "envoy" in asked.only else ""
    go = provide_go(asked.work) if "go" in asked.only else ""
    peer = provide_peer(asked.work) if set(asked.parts) & NEED_PEER else ""
    earlier = checkout(asked.work / "earlier", asked.against) if asked.against else None
    given = asked.product_command
    known = catalogue(envoy=envoy, go=go, sidecar_command=given, earlier=earlier, installed=installed)
    plan = _plan(asked, present(known, asked, earlier, installed))
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, cores.load)
    began = datetime.now(tz=UTC)
    facts = describe(REPOSITORY, environments.ask(installed.python), envoy)
    if given:
        facts.append(("command", given))
    if earlier is not None:
        facts.append(("earlier", asked.against))
    bench = Bench(plan, asked.work, cores)
    for number, name in enumerate(asked.parts):
        say(f"part {number + 1} of {len(asked.parts)}: {name}{_left(asked, plan, number)}")
        PARTS[name](bench, asked.upstream, peer)
    facts.append(("load average at the end", f"{os.getloadavg()[0]:.2f}"))
    facts.append(("others on the product's core", f"{bench.foreign:.0%} of a round of wrk at the most"))
    return _write(asked, f"{began:%Y-%m-%d %H:%M} UTC", facts, bench), not bench.figures.out


def _installed(asked: argparse.Namespace, builds: Sequence[str]) -> Installed:
    """The product for the Python that was asked for; RunError where it can't be had."""
    python = environments.choose(asked.python, environments.of_image())
    installed = environments.provide(asked.work, python, builds) if python else CHECKOUT
    sidecar = asked.product_command or command(installed.sidecar)
    if "sidecar" in asked.only and not has_program(sidecar):
        raise RunError(f"{sidecar.split()[0]} isn't there: `make bench` sets it up")
    return installed


def _plan(asked: argparse.Namespace, products: Sequence[Product]) -> Plan:
    quick = asked.quick
    return Plan(
        products=products,
        rounds=asked.rounds or (1 if quick else 7),
        requests=asked.requests or (1_000 if quick else 100_000),
        memory_requests=0 if quick else MEMORY_REQUESTS,
        stream_rounds=asked.stream_rounds or (1 if quick else 3),
        stream_bytes=QUICK_STREAM_BYTES if quick else STREAM_BYTES,
        quick=quick,
    )


def _left(asked: argparse.Namespace, plan: Plan, number: int) -> str:
    """What is still to come, by what it took elsewhere."""
    after = asked.parts[number + 1 :]
    if asked.quick:
        return f"; then {', '.join(after)}" if after else ""
    share = len(plan.products) / CONTENDERS * plan.rounds / 7
    minutes = sum(MINUTES[name] for name in asked.parts[number:]) * share
    return f"; about {minutes:.0f} min left{', then ' + ', '.join(after) if after else ''}"


def _write(asked: argparse.Namespace, when: str, facts: list[tuple[str, str]], bench: Bench) -> Path:
    """Markdown, JSON beside it, and a chart for each part."""
    title = f"Benchmark of {when}"
    text = report.render(title, facts, bench.plan, bench.results, bench.figures)
    name = when.replace(" UTC", "Z").replace(" ", "T").replace(":", "")
    path: Path = asked.output or (asked.work / "report.md" if asked.quick else RESULTS / f"{name}.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    found = report.document(title, facts, bench.figures, quick=asked.quick)
    path.with_suffix(".json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    folder: Path = asked.charts or (asked.work / "charts" if asked.quick else CHARTS)
    folder.mkdir(parents=True, exist_ok=True)
    notes = charts.notes(when, dict(facts))
    for part in asked.parts:
        if shown := charts.groups(bench.figures, part):
            heading = report.PARTS[part].format(size=size(bench.plan.stream_bytes))
            (folder / f"{part}.svg").write_text(charts.svg(heading, notes, shown))
    print(text)
    return path


def present(
    known: Sequence[Product],
    asked: argparse.Namespace,
    earlier: Path | None,
    installed: Installed = CHECKOUT,
) -> list[Product]:
    """The contenders of this run; who can't take part is named, with the reason."""
    missing = {
        "compiled": None if installed.compiled.exists() else "`make compiled` makes it",
        "nghttpx": None if shutil.which("nghttpx") else "not installed (Debian: nghttp2-proxy)",
    }
    present = []
    for product in known:
        if product.name in asked.only and (reason := missing.get(product.name)):
            say(f"without {product.name}: {reason}")
        elif product.name in asked.only and (earlier or product.name != "earlier"):
            present.append(product)
    return present


if __name__ == "__main__":
    sys.exit(main())
