"""Measures everything about a GPU's speed in a few minutes, the most telling first.

    python examples/benchmarks/gpu.py [--minutes 8] [--parts 1,2,3] [--out build/gpu] [--original CHECKOUT]
    python examples/benchmarks/gpu.py --device cpu --tiny       # no GPU: only whether everything runs

Each step is a process of its own with a time limit; what it has measured is in OUT/NAME.json before the next begins, also
when it fails or is stopped, and its output in OUT/NAME.out and OUT/NAME.err. OUT/gpu.json holds all. See the README.md here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent
MINUTES = 8
LEAST = 5  # seconds that are worth beginning a step with
PARTS = "123456"
SECONDS = "{seconds}"  # in a command: how long it may take


class Step(NamedTuple):
    """name: of its files. command: script and options. limit: in seconds of a budget of MINUTES; reserved: how many of them
    the steps before leave for it."""

    part: int
    name: str
    command: list[str]
    limit: float
    reserved: float = 0


def steps(args: argparse.Namespace) -> list[Step]:
    device, tiny = ["--device", args.device], ["--tiny"] * args.tiny
    shapes = ["16,2,64"] if args.tiny else ["1024,16,3072", "1024,4,3072", "64,128,4096", "1,64,3072"]
    shapes = [word for shape in shapes for word in ("--shape", shape)] + ["--rounds", "2" if args.tiny else "20"]
    text = ["--text", str(args.text)] if args.text else []
    parallel = ["--parallel-text", str(args.parallel_text)] if args.parallel_text else []
    # A process each: a profiler, once there, slows down what comes after it.
    training = [
        Step(
            4, f"training-{arch}",
            ["throughput.py", "--arch", f"srupp_lm_{arch}", "--models", "srupp_lm",
             *["compiled"] * (arch == "enwik8_base" or not args.tiny),  # a compilation takes its time at any size
             "transformer_lm", "--profile", "--updates", "8", *device, *tiny],
            60,
        )
        for arch in ("enwik8_base", "wiki103_base", *([] if args.tiny else ["enwik8_small", "lm1b_base"]))
    ]  # fmt: skip
    listed = [
        Step(1, "check", ["check.py", "--seconds", SECONDS, *device, *tiny], 140),
        Step(2, "recurrence", ["recurrence.py", *shapes, "--dtype", "bf16", "fp32", *device], 40),
        Step(3, "attention", ["attention.py", *device, *tiny], 50),
        *training,
        Step(5, "translation", ["translation.py", "--fp16", "--amp", *decoding(args.tiny), *device, *tiny], 60),
        Step(5, "generation", ["generation.py", *device, *tiny], 40),
        Step(6, "race", ["race.py", "--within", SECONDS, *text, *parallel, *device, *tiny], 300, 150),
    ]
    if args.original:
        kind = "fp32" if args.device == "cpu" else "fp16"
        listed.insert(2, Step(2, "original", ["original.py", str(args.original), *shapes, "--dtype", kind, *device], 90))
    return listed


def decoding(tiny: bool) -> list[str]:
    """Options of translation.py."""
    if tiny:
        return "--models transformer srupp --sentences 2 --batch-size 2 --rounds 1 --updates 1".split()
    models = "--models transformer srupp srupp-k2 --rounds 2"
    return f"{models} --sentences 512 --batch-size 128 --updates 12 --max-tokens 4096".split()


def run(step: Step, limit: float, folder: Path) -> dict:
    """Runs a step for at most `limit` seconds and tells how it went. What it started ends with it."""
    paths = {kind: folder / f"{step.name}.{kind}" for kind in ("json", "out", "err")}
    for path in paths.values():
        path.unlink(missing_ok=True)
    words = [f"{max(1, limit - 3):.0f}" if word == SECONDS else word for word in step.command]
    command = [sys.executable, str(FOLDER / words[0]), *words[1:], "--json", str(paths["json"])]
    done = {"part": step.part, "name": step.name, "command": shlex.join(command), "limit": round(limit, 1)}
    modules = os.pathsep.join(os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)
    begin = time.monotonic()
    with paths["out"].open("wb") as out, paths["err"].open("wb") as err:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": modules},
        )  # fmt: skip
        try:
            status = process.wait(limit)
            done["outcome"] = "done" if status == 0 else f"failed, status {status}"
        except subprocess.TimeoutExpired:
            done["outcome"] = "stopped at its time limit"
        finally:
            kill(process)
    done["seconds"] = round(time.monotonic() - begin, 1)
    if done["outcome"] != "done":
        done["why"] = tail(paths["err"])
    try:
        done["result"] = json.loads(paths["json"].read_text())
    except (OSError, ValueError):
        done["result"] = None
    return done


def kill(process: subprocess.Popen) -> None:
    """The process and all of its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):  # a hung driver must not hold up the rest
        process.wait(10)


def tail(path: Path, lines: int = 8) -> list[str]:
    text = path.read_text(errors="replace").splitlines()
    return [line[:300] for line in text if line.strip()][-lines:]


def save(path: Path, report: dict) -> None:
    """Whole or not at all."""
    written = path.with_name(f".{path.name}.{os.getpid()}")
    written.write_text(json.dumps(report, indent=1) + "\n")
    os.replace(written, path)


def measure(listed: list[Step], minutes: float, folder: Path, options: dict) -> dict:
    """Runs the steps one after the other, while there is time, and keeps the report in folder/gpu.json."""
    end = time.monotonic() + 60 * minutes
    report = {"options": options, "date": time.strftime("%Y-%m-%dT%H:%M%z"), "steps": []}
    for number, step in enumerate(listed):
        reserved = sum(later.reserved for later in listed[number + 1 :]) * minutes / MINUTES
        limit = min(step.limit * minutes / MINUTES, end - reserved - time.monotonic())
        if limit < LEAST:
            done = {"part": step.part, "name": step.name, "outcome": "left out: no time left", "result": None}
        else:
            print(f"[{step.part}] {step.name}: at most {limit:.0f} s ...", flush=True)
            done = run(step, limit, folder)
            print(f"    {done['outcome']}, {done['seconds']:.0f} s", *done.get("why", []), sep="\n    ", flush=True)
        report["steps"].append(done)
        save(folder / "gpu.json", report)
    return report


def table(report: dict) -> str:
    """Each step with how it went and the figures of its summary."""
    lines = []
    for done in report["steps"]:
        spent = f", {done['seconds']:.0f} s" if "seconds" in done else ""
        lines.append(f"\n{done['part']}  {done['name']}: {done['outcome']}{spent}")
        lines += [f"     ! {line}" for line in done.get("why", [])[-2:]]
        rows = (done["result"] or {}).get("summary", {})
        width = max(map(len, rows), default=0)
        lines += [f"     {name:{width}}  {value}" for name, value in rows.items()]
    return "\n".join(lines)


def parts(text: str) -> set[str]:
    """Numbers of parts and names of steps."""
    chosen = set(text.split(","))
    numbers = {word for word in chosen if word.isdigit()}
    if "" in chosen or not numbers <= set(PARTS):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 1 to 6 or names of steps, such as 2,3,generation")
    return chosen


def positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1e6:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text}: expected a number of minutes")


def there(text: str) -> Path:
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"there is no {text}")
    return Path(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder of results (build/gpu)")
    parser.add_argument("--minutes", type=positive, default=MINUTES, help="for all; each step's limit grows with it")
    parser.add_argument("--parts", type=parts, default=set(PARTS), help="1 check, 2 recurrence, 3 attention, "
                        "4 training, 5 decoding, 6 real training; or steps by their names, such as generation")  # fmt: skip
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that tell nothing, to see that everything runs")
    parser.add_argument("--original", type=there, help="checkout of asappresearch/sru, branch 3.0.0-dev, to compare with")
    parser.add_argument("--text", type=there, help="file to train on; by default the Python library's sources")
    parser.add_argument("--parallel-text", type=there, help="folder that fairseq-preprocess wrote, to train translation on")
    args = parser.parse_args()
    every = steps(args)
    listed = [step for step in every if {str(step.part), step.name} & args.parts]
    if unknown := {word for word in args.parts if not word.isdigit()} - {step.name for step in every}:
        named = ", ".join(step.name for step in every)
        parser.error(f"--parts: there is no step {', '.join(sorted(unknown))} (with these options: {named})")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):  # on its way out it ends the step
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {error}")
    options = {name: str(value) for name, value in vars(args).items()} | {"parts": sorted(args.parts)}
    minutes = args.minutes
    if args.device == "cuda":
        begin = time.monotonic()
        if subprocess.run([sys.executable, "-c", "import sys, torch; sys.exit(not torch.cuda.is_available())"]).returncode:
            parser.error("torch finds no GPU here; `--device cpu --tiny` only shows that everything runs")
        minutes -= (time.monotonic() - begin) / 60
    report = measure(listed, minutes, args.out, options)
    print(table(report), f"\nall of it: {args.out / 'gpu.json'}", sep="\n")
    return 0 if all(done["outcome"] == "done" for done in report["steps"]) else 1


if __name__ == "__main__":
    sys.exit(main())
