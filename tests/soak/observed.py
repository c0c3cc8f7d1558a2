"""The sidecar as users start it, which on SIGUSR2 writes down what there is of it.

SOAK_OBSERVED=FILE python -m tests.soak.observed run --config …
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
from collections import Counter

from sidecar.admin.renderings import Rendering
from sidecar.cli.commands import main
from sidecar.net.tls import TlsTransport
from sidecar.observe.heap import own_heap
from sidecar.proxy.exchange.exchange import Exchange
from sidecar.proxy.http1.downstream import DownstreamConnection
from sidecar.proxy.http1.upstream import UpstreamConnection
from sidecar.proxy.http2.app_stream import AppStream
from sidecar.proxy.http2.downstream import Http2Downstream
from sidecar.proxy.http2.upstream import Http2Upstream
from sidecar.proxy.http2.upstream_stream import UpstreamStream
from sidecar.proxy.pool.pool import Pool
from sidecar.tokens.entry import Entry

KINDS = (
    *(Exchange, DownstreamConnection, UpstreamConnection, Pool, TlsTransport),
    *(Http2Downstream, AppStream, Http2Upstream, UpstreamStream),
)


def resident() -> float:
    """Resident memory in MiB."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def used() -> float | None:
    """What malloc has handed out, in MiB, by its own account; None where there is none."""
    heap = own_heap()
    return None if heap is None else resident() - heap.idle() / (1 << 20)


def comes_and_goes(thread: threading.Thread) -> bool:
    """Whether a thread may be there or not when nothing goes on."""
    return thread.name.startswith(("asyncio_", "look-up", "token fetch"))


def described(connection: UpstreamConnection | Http2Upstream) -> str:
    """What an upstream connection is at, for who wonders why it is there."""
    transport, pool = connection.transport, connection._pool
    return (
        f"{pool!r} state {connection.state}, served {connection.served}, closing {transport.is_closing()}, "
        f"unsent {transport.get_write_buffer_size()}, flushing {connection in pool._flushing}"
    )


def of_the_cache(timer: asyncio.TimerHandle) -> bool:
    """Whether a timer renews the token of a wildcard host."""
    arguments = timer._args  # type: ignore[attr-defined]
    return bool(arguments) and isinstance(arguments[0], Entry) and not arguments[0].pinned


def of_the_scrape(timer: asyncio.TimerHandle) -> bool:
    """Whether a timer drops what /metrics was answered with: this soak reads it while it looks."""
    return isinstance(getattr(timer._callback, "__self__", None), Rendering)  # type: ignore[attr-defined]


def write_down(_number: int, _frame: object) -> None:
    """Tasks, timers, threads and the objects that hold a connection, as JSON."""
    loop = asyncio.get_running_loop()
    gc.collect()
    tracked = gc.get_objects()
    objects = Counter(map(type, tracked))
    scheduled = loop._scheduled  # type: ignore[attr-defined]
    timers = [timer for timer in scheduled if not timer.cancelled() and not of_the_scrape(timer)]
    found = {
        "tasks": sorted(task.get_name() for task in asyncio.all_tasks(loop)),
        "timers": len(timers) - sum(map(of_the_cache, timers)),
        # Of the wildcard's tokens, as many as are kept just now.
        "cache_timers": sum(map(of_the_cache, timers)),
        # Without the event loop's own pool for name look-ups, which grows to what it is bounded by and keeps its
        # threads, and without fetches: pinned tokens are renewed at any time, and there is a gauge for those that stay.
        "threads": len(os.listdir("/proc/self/task")) - sum(map(comes_and_goes, threading.enumerate())),
        "objects": {kind.__name__: objects[kind] for kind in KINDS},
        "left": [described(it) for it in tracked if isinstance(it, UpstreamConnection | Http2Upstream)],
        "tracked": sum(objects.values()),
        "blocks": sys.getallocatedblocks(),
    }
    found["resident"] = resident()
    found["used"] = used()
    file = os.environ["SOAK_OBSERVED"]
    with open(f"{file}.new", "w") as out:
        json.dump(found, out)
    os.replace(f"{file}.new", file)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR2, write_down)
    main()
