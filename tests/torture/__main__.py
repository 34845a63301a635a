"""The long version of what the suite tries for a moment: `make torture`, or `python tests/torture --help`."""

import argparse
import concurrent.futures
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import List, Optional

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers"), str(Path(__file__).parent)]

import kinds  # noqa: E402
import torch  # noqa: E402


def one_kind(name: str, seed: int, count: int) -> dict:
    """Tries all of a kind, in a folder of its own."""
    torch.set_num_threads(1)
    started, tried, held, failed = time.monotonic(), 0, 0, []
    function = {kind.__name__: kind for kind in kinds.COUNTS}[name]
    with tempfile.TemporaryDirectory(prefix=f"torture-{name}-") as folder:
        try:
            for each in function(Path(folder), seed, count):
                tried += each.times
                held += each.times if each.fault is None else 0
                if each.fault is not None:
                    failed.append(f"{each.name}: {each.fault}")
                    print(f"{name}: {failed[-1]}", file=sys.stderr, flush=True)
        except Exception as error:
            failed.append(f"after {tried}: {type(error).__name__}: {error}")
    return {"tried": tried, "held": held, "failed": failed, "seconds": round(time.monotonic() - started, 1)}


def main(words: Optional[List[str]] = None) -> int:
    names = [kind.__name__ for kind in kinds.COUNTS]
    parser = argparse.ArgumentParser(prog="python tests/torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="on two idle cores; counts are in proportion to it")
    parser.add_argument("--seed", type=int, help="the first seed of every kind; by default another one each time")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="KIND", help=", ".join(names))
    parser.add_argument("--count", type=int, help="how many of each kind, instead of --minutes")
    parser.add_argument("--jobs", type=int, default=2, help="kinds at the same time")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "torture.json", help="where results are written")
    args = parser.parse_args(words)
    seed = random.SystemRandom().randrange(1 << 30) if args.seed is None else args.seed
    share = args.minutes / 30
    counts = {kind.__name__: args.count or max(1, round(most * share)) for kind, most in kinds.COUNTS.items()}
    print(f"seed {seed}", flush=True)
    order = sorted(args.only, key=["kills", "calls"].__contains__, reverse=True)  # the longest first
    if args.jobs == 1:
        results = {name: one_kind(name, seed, counts[name]) for name in args.only}
    else:
        with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
            futures = {name: pool.submit(one_kind, name, seed, counts[name]) for name in order}
            results = {name: futures[name].result() for name in args.only}
    print(f"{'what':<14}{'how many':>10}{'held':>10}{'failed':>10}{'minutes':>10}")
    for name, result in results.items():
        row = (result["tried"], result["held"], len(result["failed"]))
        print(f"{name:<14}" + "".join(f"{number:>10}" for number in row) + f"{result['seconds'] / 60:>10.1f}")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps({"seed": seed, "torch": torch.__version__, "kinds": results}, indent=1) + "\n")
    enough = all(results[name]["tried"] >= counts[name] for name in results)
    return 0 if enough and not any(result["failed"] for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
