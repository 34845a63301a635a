"""What the benchmarks have in common: what they say of the machine, how they measure memory and kernels and keep results."""

from __future__ import annotations

import contextlib
import ctypes
import datetime
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT))  # a plain clone works too

from fairseq_srupp.ops import backends  # noqa: E402


def save(path: pathlib.Path | None, result: dict) -> None:
    """Writes the result as JSON, whole or not at all: a benchmark may be stopped while it writes. None: nowhere."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.{os.getpid()}")
    written.write_text(json.dumps(result, indent=1, default=str) + "\n")
    os.replace(written, path)


def synchronize(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def slowest_kernels(work: Callable[[], object], device: str, count: int = 12) -> list[dict]:
    """The GPU's kernels (on the CPU: the operators) in which work() spends most time, with that time and the calls."""
    cuda = device != "cpu"
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda) as profiler:
        work()
        synchronize(device)
    clock = "self_device_time_total" if cuda else "self_cpu_time_total"
    kind = DeviceType.CUDA if cuda else DeviceType.CPU
    events = [
        (getattr(event, clock), event)
        for event in profiler.key_averages()
        if event.device_type == kind and not getattr(event, "is_user_annotation", False)  # which spans kernels
    ]
    total = sum(spent for spent, _ in events) or 1
    return [
        {"name": event.key[:160], "ms": spent / 1e3, "share": spent / total, "calls": event.count}
        for spent, event in sorted(events, key=lambda item: -item[0])[:count]
    ]


PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_int_mm", "linear_dynamic")
KINDS = ("matrix products", "own kernels", "other operators", "Python")


def time_by_region(work: Callable[[], object], regions: dict[str, list[tuple[type, str]]], count: int = 12) -> dict:
    """Where the time of work() on the CPU goes: {"seconds", "regions": {region: {kind: share}}, "operators"}.

    Args:
        regions: methods (class and name) in whose calls time belongs to a region; what is outside belongs to "rest".

    Fused attention is among the products, "own kernels" are those of fairseq_srupp, "Python" is what passes in no operator. The
    profiler makes all calls slower: Python and small operators take less without it.
    """

    def named(region: str, method: Callable) -> Callable:
        def called(*args, **kwargs):
            with record_function(region):
                return method(*args, **kwargs)

        return called

    names = {*regions, "rest"}
    spent = {region: dict.fromkeys(KINDS, 0.0) for region in (*regions, "rest")}
    operators: dict[str, list] = {}
    with contextlib.ExitStack() as stack:
        for region, (owner, name) in [(region, method) for region, methods in regions.items() for method in methods]:
            stack.enter_context(mock.patch.object(owner, name, named(region, getattr(owner, name))))
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler, record_function("rest"):
            work()
    for event in profiler.events():
        inside = event
        while inside is not None and inside.name not in names:
            inside = inside.cpu_parent
        if inside is None:  # of the profiler itself
            continue
        library, _, operator = event.name.rpartition("::")
        kind = "Python" if not library else "own kernels" if library == "fairseq_srupp" else "other operators"
        kind = "matrix products" if operator in PRODUCTS or "attention" in operator else kind
        spent[inside.name][kind] += event.self_cpu_time_total / 1e6
        if library:
            of = operators.setdefault(event.name, [0.0, 0])
            of[0], of[1] = of[0] + event.self_cpu_time_total / 1e6, of[1] + 1
    total = sum(sum(of.values()) for of in spent.values())
    shares = {region: {kind: seconds / total for kind, seconds in of.items()} for region, of in spent.items()}
    shares["all"] = {kind: sum(of[kind] for of in shares.values()) for kind in KINDS}
    slowest = sorted(operators.items(), key=lambda item: -item[1][0])[:count]
    listed = [{"name": name, "share": seconds / total, "calls": calls} for name, (seconds, calls) in slowest]
    return {"seconds": total, "regions": shares, "operators": listed}


def show_regions(times: dict) -> None:
    """Prints what time_by_region returns."""
    print(f"{times['seconds']:9.3f} s", *(f"{kind:>16}" for kind in KINDS))
    for region, of in times["regions"].items():
        print(f"{region:11}", *(f"{of[kind]:16.1%}" for kind in KINDS))
    for op in times["operators"]:
        each = 1e6 * op["share"] * times["seconds"] / op["calls"]
        print(f"{op['share']:7.1%} {op['calls']:>8,} x {each:7,.0f} us  {op['name'][:64]}")


def forget_peak_memory(device: str) -> None:
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
            libc.malloc_trim(0)  # or memory that was freed before would be taken again without a trace
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # since Linux 4.0


def peak_memory(device: str) -> int:
    """Bytes: the peak since forget_peak_memory(), or of the process's life where the system cannot forget."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":
        status = pathlib.Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def environment(device: str) -> dict:
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "commit": commit(),
        "machine": cpu_name() if device == "cpu" else torch.cuda.get_device_name(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "backends": {name: about for name, (available, about) in backends().items() if available},
    }


def commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cpu_name() -> str:
    if sys.platform == "linux":
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
