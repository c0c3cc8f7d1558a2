"""Compare the cost of idtoken-sidecar with those of Envoy, Go and nginx: `make bench`.

Owns: the command line, the order of the parts, where the report goes.
Called by: people, through `make bench`; it is no test and no CI step.
May not: need anything but the standard library: it runs outside the product's virtual environment.
Rule: benchmarks/README.md says how the numbers come about; what is done here and what it says must agree.
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import in_memory
import report
from http2 import Costs, Http2Bench
from machine import (
    DEBIAN_PACKAGES,
    HTTP2_PACKAGES,
    alone,
    checkout,
    describe,
    provide_envoy,
    provide_go,
    provide_programs,
    say,
)
from measure import Bench, Plan
from process import Cores, RunError
from products import COMPILED, REPOSITORY, SIDECAR, SIDECAR_COMMAND, Product, catalogue, has_sidecar
from rest import RestBench

HERE = Path(__file__).resolve().parent
WORK = HERE / ".work"
RESULTS = HERE / "results"
PRODUCTS = ("sidecar", "compiled", "earlier", "envoy", "go", "nginx", "nghttpx")
PARTS = ("small", "streams", "http2", "rest")
MEMORY_REQUESTS = 300_000
STREAM_BYTES, QUICK_STREAM_BYTES = 2**30, 2**26


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds, for development; the report stays in .work"
    )
    parser.add_argument(
        "--only",
        type=_names(PRODUCTS),
        default=PRODUCTS,
        metavar="NAMES",
        help=f"of {','.join(PRODUCTS)}",
    )
    parser.add_argument(
        "--against", metavar="COMMIT", help="measure the sidecar of this commit too, as the product `earlier`"
    )
    parser.add_argument(
        "--parts", type=_names(PARTS), default=PARTS, metavar="NAMES", help="of small,streams,http2,rest"
    )
    parser.add_argument(
        "--upstream",
        type=_names(("plain", "tls")),
        default=("plain", "tls"),
        metavar="NAMES",
        help="of plain,tls",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="only the proxy's own CPU time for a request, between two transports in memory: tells 0.1 µs",
    )
    parser.add_argument("--bytes", action="store_true", help="with --memory: 1 GiB each way, too")
    parser.add_argument(
        "--rounds", type=int, help="rounds of small requests (default 7, quick 2, in memory 15)"
    )
    parser.add_argument(
        "--requests", type=int, help="requests a round, at least (default 100000, quick 10000)"
    )
    parser.add_argument("--stream-rounds", type=int, help="transfers each way (default 3, quick 1)")
    parser.add_argument(
        "--product-command",
        default=SIDECAR_COMMAND,
        metavar="COMMAND",
        help="a stand-in for the sidecar; {config} {port} {admin_port} {upstream_port} {ca_file} are filled in",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="where the report goes")
    return parser.parse_args(argv)


def _names(known: Sequence[str]) -> Callable[[str], tuple[str, ...]]:
    def names(text: str) -> tuple[str, ...]:
        asked = text.split(",")
        if unknown := set(asked) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: not one of {', '.join(known)}")
        return tuple(name for name in known if name in asked)

    return names


def main() -> int:
    """Run it all; 0 when everything was measured (whatever the numbers), 2 when it couldn't be."""
    asked = arguments()
    # A terminated run must end its children too: turn the signal into the exception that unwinds.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with alone(WORK):
            if asked.memory:
                print(_in_memory(asked))
                return 0
            report_path = _run(asked)
    except RunError as error:
        print(f"benchmarks/run.py: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    say(f"written to {os.path.relpath(report_path)}")
    return 0


def _in_memory(asked: argparse.Namespace) -> str:
    earlier = asked.against and checkout(WORK / "earlier", asked.against, in_memory.PARTS)
    return in_memory.compare(
        SIDECAR.with_name("python"),
        REPOSITORY,
        earlier,
        commit=asked.against or "",
        rounds=asked.rounds or in_memory.ROUNDS,
        with_bytes=asked.bytes,
    )


def _run(asked: argparse.Namespace) -> Path:
    if "sidecar" in asked.only and not has_sidecar(asked.product_command):
        raise RunError(f"{asked.product_command.split()[0]} isn't there: `make bench` sets it up")
    provide_programs([*DEBIAN_PACKAGES, *(HTTP2_PACKAGES if "http2" in asked.parts else ())])
    envoy = provide_envoy(WORK) if "envoy" in asked.only else ""
    go = provide_go(WORK) if "go" in asked.only else ""
    earlier = checkout(WORK / "earlier", asked.against) if asked.against else None
    known = catalogue(envoy=envoy, go=go, sidecar_command=asked.product_command, earlier=earlier)
    quick = asked.quick
    plan = Plan(
        products=_present(known, asked, earlier),
        rounds=asked.rounds or (2 if quick else 7),
        requests=asked.requests or (10_000 if quick else 100_000),
        memory_requests=0 if quick else MEMORY_REQUESTS,
        stream_rounds=asked.stream_rounds or (1 if quick else 3),
        stream_bytes=QUICK_STREAM_BYTES if quick else STREAM_BYTES,
    )
    cores = Cores.of_this_machine()
    os.sched_setaffinity(0, cores.load)
    began = datetime.now(tz=UTC)
    facts = describe(REPOSITORY, SIDECAR, envoy)
    if asked.product_command != SIDECAR_COMMAND:
        facts.append(("command", asked.product_command))
    if earlier is not None:
        facts.append(("earlier", asked.against))
    bench = Bench(plan, WORK, cores)
    for part, measure in (("small", bench.small_requests), ("streams", bench.streams)):
        for upstream in asked.upstream if part in asked.parts else ():
            measure(tls=upstream == "tls")
    costs = _http2(asked, bench, plan) if "http2" in asked.parts else None
    rest = _rest(bench, plan) if "rest" in asked.parts else None
    text = report.render(f"{began:%Y-%m-%d %H:%M} UTC", facts, plan, bench.results, costs, rest)
    path = asked.output or (WORK / "report.md" if quick else RESULTS / f"{began:%Y-%m-%dT%H%MZ}.md")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(text)
    return path


def _present(known: Sequence[Product], asked: argparse.Namespace, earlier: Path | None) -> list[Product]:
    """The contenders of this run; who can't take part is named, with the reason."""
    missing = {
        "earlier": None if earlier else "give --against COMMIT",
        "compiled": None if COMPILED.exists() else "`make compiled` makes it",
        "nghttpx": None if shutil.which("nghttpx") else "not installed (Debian: nghttp2-proxy)",
    }
    present = []
    for product in known:
        if product.name in asked.only and (reason := missing.get(product.name)):
            say(f"without {product.name}: {reason}")
        elif product.name in asked.only:
            present.append(product)
    return present


def _http2(asked: argparse.Namespace, bench: Bench, plan: Plan) -> Costs:
    part = Http2Bench(bench, rounds=plan.rounds, requests=plan.requests, stream_rounds=plan.stream_rounds)
    for upstream in asked.upstream:
        part.requests(tls=upstream == "tls")
    part.calls()
    for upstream in asked.upstream:
        part.streams(plan.stream_bytes, tls=upstream == "tls")
    return part.costs


def _rest(bench: Bench, plan: Plan) -> RestBench:
    part = RestBench(bench, rounds=plan.rounds)
    part.measure()
    return part


if __name__ == "__main__":
    sys.exit(main())
