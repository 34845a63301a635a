"""What the benchmarks have in common: what they say of the machine, how they measure memory and kernels and keep results."""

from __future__ import annotations

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

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

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
