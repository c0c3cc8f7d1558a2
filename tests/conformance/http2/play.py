"""A case against a proxy, and what became of it on both sides. Knows no proxy in particular."""

from __future__ import annotations

from itertools import islice

from tests.conformance.http2.answers import Answer, Flood
from tests.conformance.http2.app import PATIENCE, App, outcome
from tests.conformance.http2.app import Answer as Given
from tests.conformance.http2.attacks import Course
from tests.conformance.http2.heads import Head
from tests.conformance.http2.sections import NO_PREFACE, Section, get
from tests.conformance.http2.target import Connection, Request, Target, field_faults
from tests.support.h2_frames import headers


def section_outcome(port: int, target: Target, case: Section, patience: float = PATIENCE) -> tuple[str, str]:
    """What became of a case, and what is wrong with that beside it (empty where nothing is). `patience`: seconds before
    silence on its stream counts."""
    target.forget()
    bare = case.name in NO_PREFACE
    with App(port, settings=b"" if bare else None) as app:
        for step in case.steps:
            if isinstance(step, bytes):
                app.send(step)
            else:
                step(app)
        if bare:
            app.until(lambda: app.closed)
        found = outcome(app, case.stream, patience)
        wrong = ""
        if app.bad:
            wrong = app.bad
        elif found in case.allowed and case.check is not None and not case.check(app):
            wrong = f"the answer is another: {app.stream(case.stream).pieces}"
        elif target.ambiguous:
            wrong = f"forwards {target.ambiguous}"
        elif any(field not in request.fields for field in case.wants for request in target.requests[-1:]):
            wrong = f"{case.wants} did not reach the target"
    return found, wrong


def head_outcome(port: int, target: Target, case: Head, *, tunnel: bytes = b"") -> str:
    """What became of a request, in the page's words; inside a tunnel where its host and port are named."""
    target.forget()
    with App(port, tunnel=tunnel) as app:
        app.send(case.data)
        found = outcome(app, 1)
        lives = app.pong(b"still..?")
    if target.ambiguous:
        return f"forwards, ambiguous: {target.ambiguous[0]}"
    if any(b"/smuggled" in value for request in target.begun for value in request.all(b":path")):
        return "forwards the hidden one"
    if len(target.requests) > 1:
        return f"forwards {len(target.requests)}"
    if target.requests:
        return "forwards" if found == "200" else f"forwards, then {found}"
    if not lives and not found.startswith(("GOAWAY", "closes")):
        found += ", then closes"
    return found


def answer_outcome(port: int, target: Target, case: Answer) -> str:
    """What the app was given of an answer, and whether the next request met anything of it."""
    target.forget()
    target.answer = lambda connection, request: connection.send(case.reply(request.stream))
    with App(port) as app:
        app.send(headers(1, get(method=case.method)))
        found = outcome(app, 1)
        wrong = app.bad or wrong_in(app.stream(1))
        target.forget()
        again: object = True
        if not app.closed:
            app.send(headers(3, get()))
            again = app.until(lambda: app.stream(3).is_over) and app.stream(3).status == 200
    if wrong:
        return f"passes on, ambiguous: {wrong}"
    if found == "200":
        found = "passes on"
    return found if again else f"{found}, and spoils the next"


def flood_course(port: int, target: Target, case: Flood) -> Course:
    """How a target's flood went, in the words of an app's."""
    target.forget()
    over: list[Course] = []

    def flood(connection: Connection, request: Request) -> None:
        sent, units = 0, case.units(request.stream)
        while piece := list(islice(units, 200)):
            if not connection.push(b"".join(piece), deaf=case.deaf):
                over.append(Course(connection.end, sent))
                break
            sent += len(piece)
        else:
            over.append(Course("absorbs" if connection.lives() else connection.end, sent))
        connection.drop()

    target.answer = flood
    with App(port) as app:
        app.send(headers(1, get()))
        app.until(lambda: bool(over), 60.0)
    target.forget()
    return over[0] if over else Course("waits", 0)


def wrong_in(answer: Given) -> str:
    """What in an answer that an app was given breaks the grammar, or hides its end; empty where nothing does."""
    for fields in answer.heads:
        if found := field_faults(fields):
            return found[0]
    finals = [f for f in answer.heads if not any(n == b":status" and v[:1] == b"1" for n, v in f)]
    if finals and any(name[:1] == b":" for fields in finals[1:] for name, _ in fields):
        return "a pseudo-header field among trailers"
    if any(name == b"content-length" for fields in finals[1:] for name, _ in fields):
        return "a content-length among trailers"
    lengths = [value for fields in finals[:1] for name, value in fields if name == b"content-length"]
    if (
        answer.ended
        and answer.reset is None
        and answer.body
        and lengths not in ([], [b"%d" % len(answer.body)])
    ):
        return f"content-length {lengths} for {len(answer.body)} bytes, and an end"
    if b"second" in answer.body:
        return "another answer"
    return ""
