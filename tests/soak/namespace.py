"""A network of the soak's own: loopback, an address that is not loopback, and names for it.

A wildcard route follows the host that it is asked for, to port 443 of whatever that name means, and never to loopback;
so the soak needs names and an address of its own, in fresh network and mount namespaces (unshare(1)).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile

ADDRESS = "10.99.0.1"
HOSTS = tuple(f"{number}.wild.test" for number in range(1, 41))
_INSIDE = "SOAK_NAMESPACE"
_TOOLS = ("unshare", "ip", "mount")
_WAYS = (["unshare", "--net", "--mount"], ["unshare", "--user", "--map-root-user", "--net", "--mount"])
"""For root, and for others."""


def enter(module: str, arguments: Sequence[str]) -> str:
    """Start `python -m module` again in namespaces; comes back only where it runs in them (""), or with why it can't."""
    if os.environ.get(_INSIDE):
        _furnish()
        return ""
    if missing := [tool for tool in _TOOLS if shutil.which(tool) is None]:
        return f"needs the commands {', '.join(missing)}"
    why = ""
    for way in _WAYS:
        tried = subprocess.run(
            [*way, "ip", "link", "set", "lo", "up"], capture_output=True, check=False, text=True
        )
        if tried.returncode == 0:
            os.environ[_INSIDE] = "yes"
            os.execvp(way[0], [*way, sys.executable, "-m", module, *arguments])  # noqa: S606
        why = tried.stderr.strip()
    return f"namespaces are not permitted here: {why}"


def _furnish() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"], check=True)
    with NamedTemporaryFile("w", suffix=".hosts") as file:
        file.write(Path("/etc/hosts").read_text())
        file.write("".join(f"{ADDRESS} {host}\n" for host in HOSTS))
        file.flush()
        os.chmod(file.name, 0o644)
        # What is mounted stays when the name is gone.
        subprocess.run(["mount", "--bind", file.name, "/etc/hosts"], check=True)
