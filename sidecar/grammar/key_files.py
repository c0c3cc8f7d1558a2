"""Files that hold a key, and who else can read them.

Owns the rule that a key is not for every user of the machine, in one sentence with what to do. Called by whatever reads
a private key or a credential, which opens or asks for the file itself and refuses it. Pure.
"""

from __future__ import annotations

import stat

from sidecar.grammar.terminal import command


def exposed(file: str, mode: int, *, switch: str = "allow_world_readable") -> str | None:
    """What is wrong where every user of the machine can read the file, for the middle of a sentence; else None.

    `mode` is its `st_mode`, `switch` the configuration's key that allows it. A secret's files are root's: with 0400 and
    without a group that the pod has (`fsGroup`), a process that is not root can't read them at all.
    """
    if not mode & stat.S_IROTH:
        return None
    fix = command("chmod", "o-r", file) or "chmod o-r FILE"
    return (
        f"every user of this machine can read it: `{fix}`, for a Kubernetes secret `defaultMode: 0440` and "
        f"the pod's `fsGroup`; or set `{switch}: true`"
    )
