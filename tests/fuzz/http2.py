"""Bytes from an app that speaks HTTP/2: four that say where they are cut, then frames behind the preface.

What is forwarded becomes HTTP/1.1, so that a strict reader judges it: one framing, one host, its own token, and no
request that is not whole.
"""

from __future__ import annotations

from tests.conformance.memory import Played
from tests.fuzz.stage import Stage, expect, on_stage, places
from tests.support.h2_frames import PREFACE, settings

_BEGINNING = PREFACE + settings()


def target(data: bytes) -> None:
    """Raise a Finding where the sidecar forwards what it should not, has a fault, or holds on to something."""
    on_stage(_play, data)


def _play(stage: Stage, data: bytes) -> None:
    stream = _BEGINNING + data[4:]
    _judge(stage, stream, stage.memory.play(stream))
    if cuts := places(data, len(stream)):
        stage.begin()
        _judge(stage, stream, stage.memory.play(stream, cuts))


def _judge(stage: Stage, stream: bytes, played: Played) -> None:
    expect(not played.ambiguous, "ambiguous towards the upstream:", played.ambiguous)
    for request in played.requests:
        stage.check_forwarded(request)
    expect(not played.statuses, "an answer in HTTP/1", played.statuses)
    stage.check(len(stream))
