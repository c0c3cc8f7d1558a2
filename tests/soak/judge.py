"""Whether what became of a request is explained by a fault that was on (pure)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.soak.faults import PROCESS, Window
from tests.soak.setting import CACHE

LEVEL = 8.0
"""MiB by which what is held of memory may grow between two quiet moments."""


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
    """MiB, as it is."""
    held: float
    """MiB that are resident once malloc has given back what is free: large bodies leave gaps that are no leak."""
    descriptors: int
    threads: int
    tasks: int
    timers: int
    cache_timers: int
    """Those that renew the tokens of wildcard hosts; at most as many as tokens are kept."""
    objects: Mapping[str, int]
    tracked: int
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
    """What is more at the end than it was; memory is compared with the middle, when every cache has filled."""
    findings = [
        f"{what}: {now} at the end, {before} at the base"
        for what, before, now in (
            ("descriptors", base.descriptors, end.descriptors),
            ("threads", base.threads, end.threads),
            ("tasks", base.tasks, end.tasks),
            ("timers", base.timers, end.timers),
        )
        if now > before
    ]
    findings += [
        f"objects of {name}: {count} at the end, {base.objects[name]} at the base"
        for name, count in end.objects.items()
        if count > base.objects[name]
    ]
    if end.cache_timers > CACHE:
        findings.append(f"timers of cached tokens: {end.cache_timers} at the end, for at most {CACHE} tokens")
    findings += [f"{name} is {value:g} at the end" for name, value in end.gauges.items() if value]
    if end.held - middle.held > LEVEL:
        findings.append(f"memory held: {end.held:.1f} MiB at the end, {middle.held:.1f} in the middle")
    if end.tracked > middle.tracked * 1.05 + 500:
        findings.append(f"objects: {end.tracked} at the end, {middle.tracked} in the middle")
    return findings


def judge_journal(lines: Sequence[str]) -> list[str]:
    """What the upstreams saw that must not be: no POST twice, no bad token, nothing malformed."""
    posts: Counter[str] = Counter()
    findings = []
    for line in lines:
        kind, _, text = line.partition(" ")
        if kind == "POST":
            posts[text] += 1
        else:
            findings.append(f"upstream: {text}")
    findings += [
        f"POST {identity} reached an upstream {count} times" for identity, count in posts.items() if count > 1
    ]
    return findings
