"""Why an address cannot be listened on, and what to do about it.

Owns the sentence for each error of bind(2), and for what `listeners` finds at the address. Called by `bindings`.
Pure: facts about this machine are arguments. The rule: no two causes that are fixed differently share a sentence.
Sources: bind(2), ip(7), ipv6(7), unix(7).
"""

from __future__ import annotations

import errno
import os.path

from sidecar.config.addresses import ListenAddress
from sidecar.grammar.terminal import command


def explain(error: OSError, address: ListenAddress, *, unprivileged_from: int, uid: int) -> str:
    """A sentence or two: why it failed, and what to do.

    `unprivileged_from` is the first port that any process may listen on, `uid` this process's user.
    """
    if address.path is not None:
        return _unix(error, address.path, uid)
    match error.errno:
        case errno.EADDRINUSE:
            shown = _shown("shows it", "ss", "-ltnp", f"sport = :{address.port}")
            return (
                f"the port is in use: another process listens there, maybe another sidecar{shown}. Stop it, "
                "or choose another port."
            )
        case errno.EACCES if 0 < address.port < unprivileged_from:
            return (
                f"no permission: ports below {unprivileged_from} are for root and for processes with "
                f"CAP_NET_BIND_SERVICE. Choose a port from {unprivileged_from} on, or give it that capability."
            )
        case errno.EACCES | errno.EPERM:
            return (
                "no permission: a rule of this system (SELinux, AppArmor, seccomp, BPF) forbids it. Allow this port "
                "there, or choose another one."
            )
        case errno.EADDRNOTAVAIL | errno.EINVAL:
            return (
                f"this machine has no address {address.host} (`ip address` lists what it has). Listen on `localhost`, "
                "on one of its own addresses, or on all of them: 0.0.0.0 or [::]."
            )
        case errno.EAFNOSUPPORT:
            return "this system has no IPv6. Listen on 127.0.0.1, or on another IPv4 address."
    return _other(error)


def _unix(error: OSError, path: str, uid: int) -> str:
    directory = os.path.dirname(path)
    match error.errno:
        case errno.EADDRINUSE:
            shown = _shown("shows it", "ss", "-lxp", "src", path)
            return (
                f"the socket is in use: another process listens on it, maybe another sidecar{shown}. Stop it, or "
                "choose another path."
            )
        case errno.EEXIST:
            return "what is there is not a socket that can be replaced. Remove it, or choose another path."
        case errno.ENOENT:
            shown = _shown("", "mkdir", "-p", directory)
            return (
                f"there is no directory {directory}. Make it{shown}, or choose another path. A systemd unit has "
                "`RuntimeDirectory=` for that, a pod an `emptyDir`."
            )
        case errno.ENOTDIR:
            return f"{directory} is not a directory. Choose another path."
        case errno.EACCES:
            shown = _shown("", "chown", str(uid), directory)
            return (
                f"no permission: this process (uid {uid}) may not write in {directory}. Give it the directory{shown}, "
                "or choose another path."
            )
        case errno.EPERM:
            shown = _shown("", "rm", path)
            return (
                f"no permission: a socket of another user is there, which this process (uid {uid}) may neither call "
                f"nor remove. Remove it if nobody listens on it{shown}, or choose another path."
            )
        case errno.EROFS:
            return (
                f"{directory} cannot be written to: its file system is read-only. Mount one there that is not (in a "
                "pod an `emptyDir`), or choose another path."
            )
    return _other(error)


def _shown(what: str, *words: str) -> str:
    """A command in brackets, with what it does; empty if it can't be shown."""
    line = command(*words)
    return f" (`{line}`{' ' if what else ''}{what})" if line else ""


def _other(error: OSError) -> str:
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "no more files may be open. Raise the limit (`ulimit -n`)."
    return f"{error.strerror or error}. Choose another address, or fix that."
