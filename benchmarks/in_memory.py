"""What a request costs in the proxy alone, without sockets: `make bench ARGS=--memory`.

Owns: the rounds, the comparison with an earlier commit, and whether the machine was quiet enough to tell.
Called by: `run`. `memory_driver` takes the samples, each in a process of its own.
May not: need anything but the standard library.
Rule: two commits are measured in turn, and compared within each round; the median over the rounds is what counts.
"""

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from statistics import median, quantiles

from process import RunError

DRIVER = Path(__file__).with_name("memory_driver.py")
PARTS = ("sidecar", "tests/conformance", "tests/support")
"""What an earlier commit is measured with."""
ROUNDS = 15
TELLS = 0.02
"""How far the middle half of the rounds may be apart for a number to be one."""
NAMES = {"request": "µs a request", "down": "µs a MiB down", "up": "µs a MiB up"}

Sample = Mapping[str, float]


def compare(
    python: Path, now: Path, earlier: Path | None, *, commit: str, rounds: int, with_bytes: bool
) -> str:
    """The table of `rounds` rounds, in each of which every checkout is measured; RunError where one can't be."""
    checkouts = {"now": now} | ({commit: earlier} if earlier is not None else {})
    found: dict[str, list[Sample]] = {name: [] for name in checkouts}
    for number in range(rounds):
        # The first of a round is another one each time: what came before may have left the core hot.
        for name in list(checkouts)[:: -1 if number % 2 else 1]:
            found[name].append(_sample(python, checkouts[name], name, with_bytes=with_bytes))
    return render(found)


def _sample(python: Path, checkout: Path, name: str, *, with_bytes: bool) -> Sample:
    done = subprocess.run(
        [str(python), str(DRIVER), *(["--bytes"] if with_bytes else [])],
        env={**os.environ, "PYTHONPATH": str(checkout)},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RunError(
            f"{name} can't be measured in memory: its modules are other ones if it is from before the rooms of the "
            f"proxy (docs/architecture.md), and `make test` installs what is needed.\n{done.stderr[-1000:]}"
        )
    sample: Sample = json.loads(done.stdout)
    return sample


def render(found: Mapping[str, list[Sample]]) -> str:
    """Medians, and the ratio to the other commit, with the range of its middle half."""
    first, *others = found
    lines, busy = [], False
    for key in found[first][0]:
        mine = [sample[key] for sample in found[first]]
        cells, spread = [f"{first} {median(mine):.2f}"], _spread(mine)
        for other in others:
            theirs = [sample[key] for sample in found[other]]
            ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
            low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            cells += [
                f"{other} {median(theirs):.2f}",
                f"ratio {median(ratios):.3f} ({low:.3f} to {high:.3f})",
            ]
            spread = high - low
        busy = busy or spread > TELLS
        lines.append(f"{NAMES[key]:<16}" + "   ".join(cells))
    if busy:
        lines.append(
            f"The machine is too busy to tell: half of the rounds are more than {TELLS:.0%} apart. Run it again when "
            "it is quiet, or with more --rounds."
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> float:
    """How far the middle half is apart, as a share of the median."""
    if len(values) < 2:
        return 0.0
    low, _, high = quantiles(values, n=4)
    return (high - low) / median(values)
