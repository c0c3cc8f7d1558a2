"""The fuzzers' short pass: what is kept, and some of it mutated, through every target (`make fuzz` is the long one)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz import answer, config, http2, http2_answer, request, token
from tests.fuzz.corpus import LONGEST, TARGETS, kept, mutated_by
from tests.fuzz.stage import leave_stage

RUN: dict[str, Callable[[bytes], None]] = {
    "token": token.target,
    "answer": answer.target,
    "request": request.target,
    "config": config.target,
    "http2": http2.target,
    "http2_answer": http2_answer.target,
}
MUTATED = 300


@pytest.fixture(scope="module", autouse=True)
def stage() -> Iterator[None]:
    """The proxy in memory is closed in the end."""
    yield
    leave_stage()


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_what_is_kept_makes_no_finding(target: str) -> None:
    """Nor does what a few hundred seeded mutations make of it: byte changed, piece cut, doubled, or put elsewhere."""
    inputs = kept(target)
    assert inputs
    for data in inputs:
        RUN[target](data)
    choose = random.Random(target)  # noqa: S311 - the same ones each time
    for _ in range(MUTATED):
        data = mutated_by(choose, choose.choice(inputs), inputs, choose.randint(1, 3))
        RUN[target](data[: LONGEST[target]])


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_is_small(target: str) -> None:
    """At most 300 inputs and 200 KB of text for each target."""
    assert len(kept(target)) <= 300
    assert (Path(__file__).parent / "corpus" / f"{target}.txt").stat().st_size <= 200_000
