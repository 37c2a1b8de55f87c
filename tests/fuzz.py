"""Run the families of tests for as long as there is time, one case of each in turn.

python tests/fuzz.py --minutes 30 --seed 0

A case that fails is printed with the command that runs it alone. The exit status is 1 then.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from random import Random

import torch
from families import FAMILIES as OF_NUMBERS
from family_files import corrupt_files
from family_runs import interrupted_runs
from test_options import fuzz_options

FAMILIES = {
    **OF_NUMBERS,
    "options": fuzz_options,
    "files": corrupt_files,
    "runs": interrupted_runs,
}


def run(name: str, case: str) -> tuple[int, str | None]:
    """Run one case: how much it has checked, and what was wrong."""
    try:
        return FAMILIES[name](Random(case)), None
    except Exception:
        return 0, traceback.format_exc()


def main() -> int:
    """Run, and print a line a family."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="these alone")
    parser.add_argument("--case", help="run this case of the one family, as a failure names it")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are small
    names = args.family or list(FAMILIES)
    if args.case is not None:
        reached, wrong = run(names[0], args.case)
        print(wrong or f"{names[0]} {args.case}: {reached} checked, right")
        return int(wrong is not None)
    sentences, failures = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    number, end = 0, time.monotonic() + 60 * args.minutes
    while time.monotonic() < end:
        for name in names:
            case = f"{args.seed}.{number}"
            reached, wrong = run(name, case)
            sentences[name] += reached
            if wrong:
                failures[name] += 1
                print(f"{wrong}\npython tests/fuzz.py --family {name} --case {case}\n", flush=True)
        number += 1
    for name in names:
        print(f"{name}: {number} cases, {sentences[name]} checked, {failures[name]} wrong")
    return int(any(failures.values()))


if __name__ == "__main__":
    sys.exit(main())
