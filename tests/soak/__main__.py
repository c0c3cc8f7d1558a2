"""`python -m tests.soak --minutes 10 --seed 7`: prints the report; exit code 1 where there is a finding."""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys

from tests.soak.namespace import enter
from tests.soak.run import soak

parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
parser.add_argument("--minutes", type=float, default=10.0, help="of load; starting and settling come on top")
parser.add_argument("--seed", type=int, help="that decides everything; default: another one each time")
told = parser.parse_args()
if not 0 < told.minutes <= 24 * 60:
    parser.error("--minutes is more than 0, and a day at most")
why_not = enter("tests.soak", sys.argv[1:])
seed = secrets.randbelow(1_000_000) if told.seed is None else told.seed
print(f"soak of {told.minutes:g} minutes, seed {seed}", flush=True)
if why_not:
    print(f"without the wildcard route: {why_not}", flush=True)
text, found = asyncio.run(soak(told.minutes * 60, seed, wild=not why_not))
print(text)
sys.exit(1 if found else 0)
