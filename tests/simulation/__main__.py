"""Run simulations by hand; see ``python -m tests.simulation --help``."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time

from .plan import make_plan
from .runner import Summary, pick, report, run_plan, run_seeds

#: How many runs a job does at a time.
CHUNK = 250


def main():
    """Do what the command line says; the exit status tells whether anything failed."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description="Simulate processes, senders and clients, each run from a seed.",
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--runs", type=int, default=1, help="how many seeds; 1: tell all of it")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes do the work")
    parser.add_argument("--actions", help="the indices of the plan's actions that are done")
    options = parser.parse_args()
    if options.runs == 1:
        return replay(options)
    started = time.monotonic()
    total = Summary()
    starts = range(options.seed, options.seed + options.runs, CHUNK)
    chunks = [range(start, min(start + CHUNK, starts.stop)) for start in starts]
    with multiprocessing.Pool(options.jobs) as pool:
        for summary in pool.imap_unordered(run_seeds, chunks):
            total.add(summary)
            show_progress(total, options.runs, time.monotonic() - started)
            if total.failures:
                break
    seconds = time.monotonic() - started
    print(f"\n{total.runs:,} runs in {seconds:,.0f} s, from seed {options.seed}")
    for name, count in sorted(total.counts.items()):
        print(f"{count:>15,} {name}")
    for seed, failure in total.failures.items():
        print(f"seed {seed}: {failure}")
    if total.failures:
        print(report(min(total.failures)))
    return bool(total.failures)


def replay(options):
    """Run one seed, and print everything."""
    plan = make_plan(options.seed)
    print(plan)
    if options.actions is not None:
        plan = pick(plan, map(int, filter(None, options.actions.split(","))))
    world = run_plan(plan)
    print(*world.trace, sep="\n")
    print("Failed:" if world.failures else "Nothing failed.", *world.failures, sep="\n")
    return bool(world.failures)


def show_progress(total, runs, seconds):
    """Rewrite the line that tells how far it is."""
    rate = total.runs / seconds
    print(
        f"\r{total.runs:,} of {runs:,} runs, {rate:,.0f}/s, "
        f"{(runs - total.runs) / rate:,.0f} s to go, {len(total.failures)} failed   ",
        end="",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
