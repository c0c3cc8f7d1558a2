"""Whether what became of a request is explained by a fault that was on (pure)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.soak.faults import PROCESS, STARVED, Window
from tests.soak.setting import CACHE

LEVEL = 12.0
"""MiB by which resident memory may grow between two quiet moments. The sidecar leaves 8 that it could give back."""
USED = 4.0
"""MiB by which what is in use of it may grow: of these, 3 are lost with TLS sessions on some Pythons, and no more however
long it runs (`pool.sessions_to_read`)."""


class Failure(NamedTuple):
    """A request that did not come out well; moments in monotonic seconds."""

    operation: str
    route: str
    began: float
    ended: float
    what: str
    detail: str


class Quiet(NamedTuple):
    """What there is of the sidecar while nothing goes on."""

    name: str
    resident: float
    """MiB."""
    used: float | None
    """MiB that malloc has handed out; None where it keeps no account."""
    blocks: int
    """Python's own count of what is allocated, small objects too."""
    descriptors: int
    threads: int
    tasks: int
    timers: int
    cache_timers: int
    """Those that renew the tokens of wildcard hosts; at most as many as tokens are kept."""
    objects: Mapping[str, int]
    tracked: int
    left: Sequence[str]
    """The upstream connections that are there yet."""
    gauges: Mapping[str, float]


def explain(
    failure: Failure, windows: Sequence[Window], concerns: Mapping[str, frozenset[str]]
) -> Window | None:
    """The fault that excuses it, one that was on rather than one that had just ended; `concerns` are the groups that
    a route depends on."""
    excusing = [
        window
        for window in windows
        if window.kind.group in concerns[failure.route]
        and failure.what in window.kind.excuses
        and window.on <= failure.ended
        and failure.began <= window.off + window.kind.settle
    ]
    return min(excusing, key=lambda window: max(failure.began - window.off, 0.0), default=None)


def judge_requests(
    failures: Sequence[Failure], windows: Sequence[Window], concerns: Mapping[str, frozenset[str]]
) -> tuple[Counter[tuple[str, str]], list[str]]:
    """How often which fault explained what, and a finding for each failure that none does."""
    explained: Counter[tuple[str, str]] = Counter()
    findings = []
    for failure in failures:
        window = explain(failure, windows, concerns)
        if window is not None:
            explained[window.kind.name, failure.what] += 1
            continue
        findings.append(
            f"{failure.operation} of {failure.route}, {failure.ended - failure.began:.2f} s: {failure.what} "
            f"{failure.detail}; {_near(failure, windows, concerns[failure.route] | {PROCESS})}"
        )
    return explained, findings


def _near(failure: Failure, windows: Sequence[Window], groups: frozenset[str]) -> str:
    """What was on about then, for who looks into it."""
    near = [
        f"{w.kind.name} {w.on - failure.began:+.1f}…{w.off - failure.began:+.1f} s"
        for w in windows
        if w.kind.group in groups and w.on - 1 < failure.ended and failure.began < w.off + 10
    ]
    return "faults then: " + (", ".join(near[-6:]) or "none")


def judge_leaks(base: Quiet, middle: Quiet, end: Quiet) -> list[str]:
    """What is more in a quiet moment than it was at the base; memory is compared with the middle, when every cache
    has filled."""
    findings = [*_left_behind(base, middle), *_left_behind(base, end)]
    if end.resident - middle.resident > LEVEL:
        findings.append(f"memory: {end.resident:.1f} MiB at the end, {middle.resident:.1f} in the middle")
    if end.used is not None and middle.used is not None and end.used - middle.used > USED:
        findings.append(f"memory in use: {end.used:.1f} MiB at the end, {middle.used:.1f} in the middle")
    findings += [
        f"{what}: {now} at the end, {before} in the middle"
        for what, before, now in (
            ("objects", middle.tracked, end.tracked),
            ("blocks", middle.blocks, end.blocks),
        )
        if now > before * 1.05 + 500
    ]
    return findings


def _left_behind(base: Quiet, now: Quiet) -> list[str]:
    findings = [
        f"{what}: {count} ({now.name}), {before} at the base"
        for what, before, count in (
            ("descriptors", base.descriptors, now.descriptors),
            ("threads", base.threads, now.threads),
            ("tasks", base.tasks, now.tasks),
            ("timers", base.timers, now.timers),
        )
        if count > before
    ]
    findings += [
        f"objects of {name}: {count} ({now.name}), {base.objects[name]} at the base: {'; '.join(now.left)}"
        for name, count in now.objects.items()
        if count > base.objects[name]
    ]
    if now.cache_timers > CACHE:
        findings.append(
            f"timers of cached tokens: {now.cache_timers} ({now.name}), for at most {CACHE} tokens"
        )
    return findings + [f"{name} is {value:g} ({now.name})" for name, value in now.gauges.items() if value]


def starved(lines: Sequence[str]) -> list[Window]:
    """When an upstream could not run, by its own account."""
    told = (json.loads(text) for kind, _, text in (line.partition(" ") for line in lines) if kind == "LATE")
    return [Window(STARVED[group], on, off) for group, on, off in told]


def judge_journal(lines: Sequence[str]) -> list[str]:
    """What the upstreams saw that must not be: no POST twice, no bad token, nothing malformed."""
    posts: Counter[str] = Counter()
    findings = []
    for line in lines:
        kind, _, text = line.partition(" ")
        if kind == "POST":
            posts[text] += 1
        elif kind != "LATE":
            findings.append(f"upstream: {text}")
    findings += [
        f"POST {identity} reached an upstream {count} times" for identity, count in posts.items() if count > 1
    ]
    return findings
