"""Versions, both ways to the kernels against the fp64 reference, and the tests that need a GPU.

    python examples/benchmarks/check.py [--device cuda] [--seconds 120] [--json FILE]

Tests that a time limit stopped count as far as they came.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import torch
from machine import ROOT, environment, save
from recurrence import usable_device, wrong_results

from fairseq_srupp.ops import backends

TESTS = ["tests/ops", "tests/modules", "tests/models", "tests/optim"]
QUERIES = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu"
PACKAGES = ("fairseq-fixed", "fairseq", "numpy", "triton", "pytest", "pytest-xdist")


def output_of(*command: str) -> str | None:
    """What a command prints, or why it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none ({type(error).__name__})"
    return (done.stdout or done.stderr).strip()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(device: str) -> dict:
    about = {**environment(device), "packages": {name: version(name) for name in PACKAGES}, "cuda": torch.version.cuda}
    if device != "cpu":
        about["nvcc"] = output_of("nvcc", "--version").splitlines()[-1:]
        card = output_of("nvidia-smi", f"--query-gpu={QUERIES}", "--format=csv,noheader")
        about["card"] = dict(zip(QUERIES.split(","), card.split(", ")))
        about["cudnn"] = torch.backends.cudnn.version()
        about["capability"] = torch.cuda.get_device_capability()
    return about


def kernels(device: str) -> dict[str, dict]:
    """For each backend of the device: what is wrong with its results, how long it took, or why it is not there."""
    found = {}
    for name, (available, about) in backends().items():
        if name not in (("cpu",) if device == "cpu" else ("cuda", "nvrtc")):
            continue
        found[name] = {"about": about, "available": available}
        if available:
            begin = time.perf_counter()
            try:
                dtypes = ("fp32", "bf16", "fp16")
                found[name]["wrong"] = [f"{d}: {line}" for d in dtypes for line in wrong_results(name, d, device)]
            except Exception as error:
                found[name]["wrong"] = [f"{type(error).__name__}: {error}"[:300]]
            found[name]["seconds"] = time.perf_counter() - begin
    return found


def test(log: Path, seconds: float, tests: list[str]) -> dict:
    """Runs the GPU tests; counts and names of failures, and whether they came to their end."""
    processes = min(8, (os.cpu_count() or 1) // 2)
    workers = ["-n", str(processes)] if processes > 1 and importlib.util.find_spec("xdist") else []
    options = "-m gpu -v -rfE --tb=short --maxfail=20 -p no:cacheprovider"
    command = [sys.executable, "-m", "pytest", *options.split()]
    begin = time.perf_counter()
    with log.open("w") as file:
        try:
            command += [*workers, *tests]
            done = subprocess.run(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=seconds)
            ended = f"status {done.returncode}"
        except subprocess.TimeoutExpired:
            ended = f"stopped after {seconds:.0f} s"
    text = log.read_text(errors="replace")
    return {**counted(text), "ended": ended, "seconds": time.perf_counter() - begin, "last": text.splitlines()[-40:]}


def counted(text: str) -> dict:
    """Counts in what `pytest -v` printed, with or without xdist, also of a run that was stopped."""
    names: dict[str, set] = {"PASSED": set(), "FAILED": set(), "ERROR": set(), "SKIPPED": set()}
    outcome = f"({'|'.join(names)})"
    for line in text.splitlines():
        if found := re.match(rf"\[gw\d+\] \[ *\d+%\] {outcome} (\S+::.+)", line):  # one of several processes
            names[found[1]].add(found[2].strip())
        elif found := re.match(rf"(\S+::.+?) {outcome}\b", line):
            names[found[2]].add(found[1])
        elif found := re.match(r"ERROR ([^\s:]+)(?: - |$)", line):  # a file that cannot be imported
            names["ERROR"].add(found[1])
    failed = sorted(names["FAILED"] | names["ERROR"])
    return {"passed": len(names["PASSED"]), "failed": len(failed), "skipped": len(names["SKIPPED"]), "failures": failed}


def summary(result: dict) -> dict[str, str]:
    about = result["versions"]
    lines = {"machine": f"{about['machine']}, torch {about['torch']}, CUDA {about['cuda']}"}
    for name, found in result.get("kernels", {}).items():
        if not found["available"]:
            lines[name] = f"not there: {found['about']}"
        else:
            lines[name] = "; ".join(found["wrong"][:2]) or f"right in fp32, bf16 and fp16, {found['seconds']:.1f} s"
    if tests := result.get("tests"):
        counts = ", ".join(f"{tests[kind]} {kind}" for kind in ("passed", "failed", "skipped"))
        lines["tests"] = f"{counts}, {tests['ended']}, {tests['seconds']:.0f} s"
    return lines


def main() -> int:
    begin = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120, help="for all of it")
    parser.add_argument("--device", type=usable_device, default="cuda")
    parser.add_argument("--tiny", action="store_true", help="few tests")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "check.json")
    args = parser.parse_args()
    result: dict = {"versions": versions(args.device)}
    save(args.json, {**result, "summary": summary(result)})
    result["kernels"] = kernels(args.device)
    save(args.json, {**result, "summary": summary(result)})
    left = args.seconds - (time.perf_counter() - begin) - 5
    tests = ["tests/ops/test_gpu.py"] if args.tiny else TESTS
    result["tests"] = test(args.json.with_suffix(".tests"), max(left, 1), tests)
    save(args.json, {**result, "summary": summary(result)})
    print(*(f"{name}: {value}" for name, value in summary(result).items()), sep="\n")
    wrong = [f"{name}: {line}" for name, found in result["kernels"].items() for line in found.get("wrong", [])]
    wrong += result["tests"]["failures"]
    print(*wrong[:20], sep="\n", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
