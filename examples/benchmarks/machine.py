"""What the benchmarks say of the machine, and how they measure memory."""

from __future__ import annotations

import ctypes
import datetime
import pathlib
import platform
import resource
import subprocess
import sys

import torch

from fairseq_srupp.ops import backends

ROOT = pathlib.Path(__file__).resolve().parents[2]


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
