"""Each way to a token on Google's page, end to end through the running sidecar, and none in another's way"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.emulator.app import Emulator
from sidecar.emulator.faults import Fault
from sidecar.emulator.instance import Platform
from sidecar.emulator.metadata import PROFILES
from sidecar.emulator.oauth import KEY_EMAIL
from sidecar.emulator.running import EmulatorThread
from tests.support.federation import SOURCES, federation_file
from tests.support.forks import COMMAND, stand_in
from tests.support.google import signed
from tests.support.process import SidecarProcess
from tests.support.sidecar import LIMIT

ACTED_AS = "acted-as@emulated-project.iam.gserviceaccount.com"
HOPS = [f"hop-{number}@emulated-project.iam.gserviceaccount.com" for number in (1, 2)]
CREATOR = "roles/iam.serviceAccountTokenCreator"


@pytest.fixture
def thread() -> Iterator[EmulatorThread]:
    with EmulatorThread() as running:
        yield running


def endpoints(google: Emulator) -> str:
    return f"endpoints: {{oauth: '{google.oauth_url}', sts: '{google.sts_url}', iam_credentials: '{google.iam_url}'}}\n"


def service(thread: EmulatorThread, name: str = "svc", **options: object) -> str:
    """A Cloud Run service, and the keys of a route to it."""
    target = thread.run(thread.google.add_target(name, **options))  # type: ignore[arg-type]
    return f"name: {name}, host: {name}.test, upstream: '{target.url}', target: cloud_run, audience: '{target.url}'"


def config(thread: EmulatorThread, credentials: str, *routes: str) -> str:
    text = f"{endpoints(thread.google)}credentials: {{{credentials}}}\nroutes:\n"
    return text + "".join(f"  - {{{route}}}\n" for route in routes)


@pytest.mark.parametrize("platform", PROFILES)
def test_the_metadata_server_of_each_platform(tmp_path: Path, platform: Platform) -> None:
    """The account that is attached there is who calls."""
    with EmulatorThread(platform=platform) as thread:
        text = config(thread, "default: {type: metadata}", service(thread))
        with SidecarProcess(text, tmp_path, thread.google.environment()) as sidecar:
            assert sidecar.get("svc").json["verified"]["email"] == PROFILES[platform].email


@pytest.mark.parametrize("kind", ["scheduler", "tasks", "pubsub", "workflows", "eventarc"])
def test_connecting_services_bring_their_own(thread: EmulatorThread, tmp_path: Path, kind: str) -> None:
    """Called through the sidecar, the service verifies the sidecar's token, and the app still gets theirs; where the
    route keeps theirs, it is what the service verifies."""
    route = service(thread)
    own = route.replace(
        "name: svc, host: svc.test", "name: own, path_prefix: /own, on_conflict: keep, header: authorization"
    )
    text = config(
        thread, "default: {type: metadata}", f"{route}, path_prefix: /svc", f"{own}, host: own.test"
    )
    target = thread.google.targets["svc"]
    with SidecarProcess(text, tmp_path, thread.google.environment()) as sidecar:
        for prefix, header, email in (
            ("svc", "X-Serverless-Authorization", thread.google.metadata.email),
            ("own", "Authorization", "caller@emulated-project.iam.gserviceaccount.com"),
        ):
            url = f"http://127.0.0.1:{sidecar.port}/{prefix}/run"
            called = thread.run(thread.google.connecting.call(kind, url, audience=target.url))
            assert called.status == 200, called
            verified = target.requests[-1].verified
            assert verified is not None
            assert (verified.header, verified.email) == (header, email)


def test_impersonation_by_a_person(thread: EmulatorThread, tmp_path: Path) -> None:
    """A login on a laptop that acts as a service account serves every target."""
    google = thread.google
    user = google.oauth.add_user("me@example.com")
    google.write_login(tmp_path / "login.json", user)
    google.principals.add(ACTED_AS)
    google.principals.grant(user.member, CREATOR, on=ACTED_AS)
    credentials = (
        f"me: {{type: user, file: {tmp_path}/login.json}}, "
        f"default: {{type: impersonate, service_account: {ACTED_AS}, source: me}}"
    )
    text = config(thread, credentials, service(thread).replace("cloud_run", "other"))
    with SidecarProcess(text, tmp_path, google.environment()) as sidecar:
        assert sidecar.get("svc").json["verified"]["email"] == ACTED_AS


def test_impersonation_by_an_attached_account_through_two_delegates(
    thread: EmulatorThread, tmp_path: Path
) -> None:
    """Each may act as the next; IAM is sent the chain as it wants it, the e-mail is in the token."""
    google = thread.google
    chain = [google.metadata.email or "", *HOPS, ACTED_AS]
    for email in chain:
        google.principals.add(email)
    for email, following in itertools.pairwise(chain):
        google.principals.grant(f"serviceAccount:{email}", CREATOR, on=following)
    credentials = (
        f"attached: {{type: metadata}}, default: {{type: impersonate, service_account: {ACTED_AS}, "
        f"source: attached, delegates: [{', '.join(HOPS)}]}}"
    )
    text = config(thread, credentials, service(thread))
    with SidecarProcess(text, tmp_path, google.environment()) as sidecar:
        assert sidecar.get("svc").json["verified"]["email"] == ACTED_AS
    assert google.iam.asked[-1][:4] == (
        "generateIdToken",
        ACTED_AS,
        f"serviceAccount:{chain[0]}",
        tuple(HOPS),
    )


def test_impersonation_of_an_impersonated_account(thread: EmulatorThread, tmp_path: Path) -> None:
    """A source may be another `impersonate`: its access token is made first."""
    google = thread.google
    for email in (HOPS[0], ACTED_AS):
        google.principals.add(email)
    google.principals.grant(f"serviceAccount:{google.metadata.email}", CREATOR, on=HOPS[0])
    google.principals.grant(f"serviceAccount:{HOPS[0]}", CREATOR, on=ACTED_AS)
    credentials = (
        f"attached: {{type: metadata}}, hop: {{type: impersonate, service_account: {HOPS[0]}, source: attached}}, "
        f"default: {{type: impersonate, service_account: {ACTED_AS}, source: hop}}"
    )
    with SidecarProcess(
        config(thread, credentials, service(thread)), tmp_path, google.environment()
    ) as sidecar:
        assert sidecar.get("svc").json["verified"]["email"] == ACTED_AS


@pytest.mark.test_all
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed here")
@pytest.mark.parametrize("acting", [False, True], ids=["generic", "acting"])
def test_the_real_gcloud_for_a_person(thread: EmulatorThread, tmp_path: Path, acting: bool) -> None:
    """Its generic token for Cloud Run, though the account is not named; and the token of an account it acts as."""
    google = thread.google
    user = google.oauth.add_user("me@example.com")
    google.write_login(tmp_path / "login.json", user)
    google.principals.add(ACTED_AS)
    google.principals.grant(user.member, CREATOR, on=ACTED_AS)
    environ = {
        **google.environment(),
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_AUTH_CREDENTIAL_FILE_OVERRIDE": str(tmp_path / "login.json"),
    }
    options = f", service_account: {ACTED_AS}" if acting else ""
    with SidecarProcess(
        config(thread, f"default: {{type: gcloud{options}}}", service(thread)), tmp_path, environ
    ) as sidecar:
        verified = sidecar.get("svc").json["verified"]
    assert verified["email"] == (ACTED_AS if acting else "me@example.com")
    assert (verified["audience"] == google.targets["svc"].url) == acting


@pytest.mark.parametrize("source", SOURCES)
def test_federation_from_each_source(thread: EmulatorThread, tmp_path: Path, source: str) -> None:
    """A file, a URL, AWS and an executable lead to the same service account."""
    google = thread.google
    provider = google.sts.add_provider()
    google.principals.add(ACTED_AS)
    google.principals.grant(provider.principal_set, "roles/iam.workloadIdentityUser", on=ACTED_AS)
    environ = {**google.environment(), "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES": "1"}
    file = federation_file(google, provider, tmp_path, source)
    credentials = (
        f"default: {{type: workload_identity_federation, file: {file}, service_account: {ACTED_AS}}}"
    )
    with SidecarProcess(config(thread, credentials, service(thread)), tmp_path, environ) as sidecar:
        reply = sidecar.get("svc")
    assert reply.status == 200, reply.body
    assert reply.json["verified"]["email"] == ACTED_AS


@pytest.mark.parametrize("kind", ["key", "login", "federation", "impersonated"])
def test_application_default_credentials_of_each_type(
    thread: EmulatorThread, tmp_path: Path, kind: str
) -> None:
    """The file in GOOGLE_APPLICATION_CREDENTIALS is used as the type it says, and the log says which it was."""
    google = thread.google
    user = google.oauth.add_user("me@example.com")
    provider = google.sts.add_provider()
    google.principals.add(ACTED_AS)
    for member in (user.member, provider.principal_set):
        google.principals.grant(member, CREATOR, on=ACTED_AS)
    file = tmp_path / "adc.json"
    if kind == "key":
        google.write_key(file)
    elif kind == "login":
        google.write_login(file, user)
    elif kind == "federation":
        file = federation_file(google, provider, tmp_path, "file", service_account=ACTED_AS)
    else:
        import json

        url = f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{ACTED_AS}:generateAccessToken"
        info = {
            "type": "impersonated_service_account",
            "service_account_impersonation_url": url,
            "source_credentials": user.adc(),
            "delegates": [],
        }
        file.write_text(json.dumps(info))
    environ = {**google.environment(), "GOOGLE_APPLICATION_CREDENTIALS": str(file)}
    with SidecarProcess(
        config(thread, "default: {type: adc}", service(thread)), tmp_path, environ
    ) as sidecar:
        email = {"key": KEY_EMAIL, "login": "me@example.com"}.get(kind, ACTED_AS)
        assert sidecar.get("svc").json["verified"]["email"] == email
        (entry,) = (entry for entry in sidecar.log if entry["message"].startswith("credential "))
        assert str(file) in entry["found"]
        warned = any("for development only" in entry["message"] for entry in sidecar.log)
        assert warned == (kind == "login")
    # The file's own way to the account is not gone: IAM is asked once, for the ID token itself.
    assert [asked.method for asked in google.iam.asked] == ["generateIdToken"] * (email == ACTED_AS)


def test_a_token_file_is_read_again_when_it_changes(thread: EmulatorThread, tmp_path: Path) -> None:
    """By Kubernetes' swap of a symbolic link too; a token that someone renewed is used at once, whatever its expiry."""
    google = thread.google
    route = service(thread)
    url = google.targets["svc"].url
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        token = signed(time.time() - number, aud=url, email=f"{number}@example.com")  # noqa: TID251
        (tmp_path / str(number) / "token").write_text(token)
    link = tmp_path / "data"
    link.symlink_to(tmp_path / "1")
    text = config(thread, f"default: {{type: file, path: {link}/token}}", route)
    with SidecarProcess(text, tmp_path, google.environment()) as sidecar:
        assert sidecar.get("svc").json["verified"]["email"] == "1@example.com"
        (tmp_path / "new").symlink_to(tmp_path / "2")
        os.replace(tmp_path / "new", link)
        # Health probes look at once; without one it takes two seconds.
        assert sidecar.admin("/healthz/ready").status == 200
        until = time.monotonic() + 20  # noqa: TID251
        while sidecar.get("svc").json["verified"]["email"] != "2@example.com":
            assert time.monotonic() < until, "the new token was not picked up"  # noqa: TID251


HANGING = {
    "executable": "federated",
    "sts": "federated",
    "metadata": "attached",
    "iam": "acting",
    "gcloud": "cli",
}


@pytest.mark.test_all
@pytest.mark.parametrize("what", HANGING)
def test_one_credential_that_hangs_delays_no_other(thread: EmulatorThread, tmp_path: Path, what: str) -> None:
    """While its requests wait, another credential's calls are answered; they get their 503, and what was given up is
    counted. That none of them is answered before is told by `tests/wire/test_tokens.py`, which has the clock in its hands."""
    google = thread.google
    google.write_key(tmp_path / "key.json")
    google.write_login(tmp_path / "login.json", google.oauth.add_user("me@example.com"))
    provider = google.sts.add_provider()
    google.principals.add(ACTED_AS)
    for name, server in (("sts", google.sts), ("metadata", google.metadata), ("iam", google.iam)):
        if what == name:
            server.endpoint.fail(Fault("hang"))
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 600\n")
    sleeper.chmod(0o755)
    source: dict[str, object] = {"file": str(tmp_path / "login.json")}
    if what == "executable":
        source = {"executable": {"command": str(sleeper), "timeout_millis": 20_000}}
    google.write_federation(tmp_path / "wif.json", provider, source)
    credentials = (
        f"default: {{type: service_account_key, file: {tmp_path}/key.json}}, attached: {{type: metadata}}, "
        f"federated: {{type: workload_identity_federation, file: {tmp_path}/wif.json, service_account: {ACTED_AS}}}, "
        f"acting: {{type: impersonate, service_account: {ACTED_AS}, source: default}}, "
        f"cli: {{type: gcloud, account: me@example.com, command: {sleeper}, timeout: 20s}}"
    )
    hanging = service(thread, "hanging")
    text = "token_wait: 6s\n" + config(
        thread, credentials, service(thread), f"{hanging}, credential: {HANGING[what]}, prefetch: false"
    )
    environ = {**google.environment(), "GOOGLE_EXTERNAL_ACCOUNT_ALLOW_EXECUTABLES": "1"}
    with SidecarProcess(text, tmp_path, environ) as sidecar:
        # On a busy machine the first fetch, which imports google-auth, takes longer than `token_wait`.
        until = time.monotonic() + LIMIT  # noqa: TID251
        while sidecar.get("svc").status != 200:
            assert time.monotonic() < until, sidecar.text  # noqa: TID251
        answers: list[int] = []
        callers = [
            threading.Thread(target=lambda: answers.append(sidecar.get("hanging").status)) for _ in range(20)
        ]
        for caller in callers:
            caller.start()
        while not any(token["waiting"] for token in sidecar.admin("/status.json").json["tokens"]):
            assert any(caller.is_alive() for caller in callers), answers
        beside = [sidecar.get("svc").status for _ in range(10)]
        assert beside == [200] * 10
        for caller in callers:
            caller.join()
        assert answers == [503] * 20
        assert not google.targets["hanging"].requests
        name = HANGING[what]
        metrics = sidecar.admin("/metrics").body.decode()
        assert f'idtoken_sidecar_token_fetch_threads{{credential="{name}",state="busy"}}' in metrics


def test_a_credential_whose_threads_all_hang_does_not_grow(thread: EmulatorThread, tmp_path: Path) -> None:
    """However many audiences are asked for: a bounded number of threads, and the rest is told."""
    google = thread.google
    google.metadata.endpoint.fail(Fault("hang"))
    text = (
        "token_wait: 1s\n" + endpoints(google) + "credentials: {default: {type: metadata}}\n"
        "routes: [{name: all, host: '*.hang.test', upstream: 'https://{host}'}]\n"
    )
    with SidecarProcess(text, tmp_path, google.environment()) as sidecar:
        callers = [
            threading.Thread(target=lambda n=n: sidecar.ask(sidecar.port, "/", {"Host": f"h{n}.hang.test"}))
            for n in range(40)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert google.metadata.endpoint.arrived <= 8
        threads = len(list(Path(f"/proc/{sidecar.process.pid}/task").iterdir()))
        assert threads < 8 + 12


FAILING_GCLOUD = """
import base64, json, os, sys, time
(audience,) = [word.partition("=")[2] for word in sys.argv if word.startswith("--audiences=")]
claims = {"aud": audience, "iat": int(time.time()), "exp": int(time.time()) + 3600}
print(".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in ({}, claims, 1)))
sys.stdout.flush()
os._exit(1)
"""


def test_beside_a_command_a_failure_of_gcloud_is_a_failure(tmp_path: Path) -> None:
    """`exec` collects children, and never those that somebody waits for: no failure is taken for a success, so no
    token is believed that a failed command printed."""
    gcloud = tmp_path / "gcloud"
    gcloud.write_text(f"#!{sys.executable}{FAILING_GCLOUD}")
    gcloud.chmod(0o755)
    text = f"credentials: {{default: {{type: gcloud, command: {gcloud}}}}}\nroutes:\n" + "".join(
        f"  - {{name: r{number}, upstream: 'https://r{number}.example'}}\n" for number in range(16)
    )
    process = SidecarProcess(text, tmp_path, {})
    process.command[process.command.index("run")] = "exec"
    # It ends with the sidecar: its input is the test's.
    process.command += ["--no-wait", "--", "cat"]
    failed: set[str] = set()
    with subprocess.Popen(
        [*stand_in(), *process.command[len(COMMAND) :]],
        env=process.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr is not None
        assert running.stdin is not None
        for line in running.stderr:
            entry = json.loads(line)
            assert not entry["message"].startswith("token fetched")
            if entry["message"].startswith("token fetch failed"):
                assert entry["reason"] == "gcloud_failed"
                failed.add(entry["audience"])
            if len(failed) == 16:
                running.stdin.close()
                break
        assert running.wait(60) == 0
    assert len(failed) == 16


SUBREAPER = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(36, 1, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""PR_SET_CHILD_SUBREAPER of linux/prctl.h, which is what PID 1 of a container is by nature."""


def children(pid: int) -> list[Path]:
    """The processes whose parent is `pid`, zombies included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid:
            found.append(stat.parent)
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has subreapers")
def test_exec_collects_the_orphans_of_its_command(tmp_path: Path) -> None:
    """As the first process of a container must: none stays a zombie; and the command's own code is passed on."""
    process = SidecarProcess("routes: [{name: a, upstream: 'https://a.example'}]\n", tmp_path, {})
    process.command[process.command.index("run")] = "exec"
    program = (
        "import os, subprocess, sys\n"
        "for _ in range(50): subprocess.run(['/bin/sh', '-c', 'sleep 1 & exit 0'])\n"
        "print('started', flush=True)\ninput()\nsys.exit(7)"
    )
    process.command = [
        sys.executable,
        "-c",
        SUBREAPER,
        *process.command,
        "--no-wait",
        "--",
        sys.executable,
        "-c",
        program,
    ]
    with subprocess.Popen(
        process.command,
        env=process.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"started\n"
        seen = left = len(children(running.pid))
        for _ in range(6000):
            if (left := len(children(running.pid))) == 1:
                break
            time.sleep(0.01)  # other processes' ends can only be polled for
        assert (seen > 1, left) == (True, 1)
        running.communicate(b"\n", timeout=60)
    assert running.returncode == 7


def test_exec_gives_a_command_any_credential(thread: EmulatorThread, tmp_path: Path) -> None:
    """`exec` too: a person's login, as on a laptop."""
    google = thread.google
    google.write_login(tmp_path / "login.json", google.oauth.add_user("me@example.com"))
    text = config(thread, f"default: {{type: user, file: {tmp_path}/login.json}}", service(thread))
    process = SidecarProcess(text, tmp_path, google.environment())
    process.command[process.command.index("run")] = "exec"
    program = "import os, urllib.request; print(urllib.request.urlopen(os.environ['IDTOKEN_SIDECAR_URL_SVC']).read())"
    found = subprocess.run(
        [*stand_in(), *process.command[len(COMMAND) :], "--", sys.executable, "-c", program],
        env=process.environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "me@example.com" in found.stdout, found.stderr
