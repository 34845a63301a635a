"""Which backends of the recurrence exist here, and which one a call takes.

A backend is a pair of operators, `fairseq_srupp::<name>_forward` and `<name>_backward` (see recurrence.py),
and one entry in `_BACKENDS`. What is built is looked for once, on import; nothing is ever built here.
"""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import warnings
from typing import NamedTuple

import torch  # also loads the libraries that _C and _C_cuda are linked to

from fairseq_srupp.ops import nvrtc

HOW_TO_BUILD = "`pip install --no-build-isolation -e .` or `make setup` in the folder of setup.py builds it"
FALLBACK = "fallback"  # the reference where nothing faster is there: the same, but it warns


class Backend(NamedTuple):
    """One way to compute the recurrence.

    device_type: the one it serves, None for all. about: what it is. missing: why it is not there and what to
    do about it, None where it is there.
    """

    device_type: str | None
    about: str
    missing: str | None = None


def _load(module: str, needs: str = "") -> tuple[object, str | None]:
    """A compiled module of the package, or why it is missing and what to do; `needs` is what building it takes."""
    try:
        return importlib.import_module(f"fairseq_srupp.{module}"), None
    except ModuleNotFoundError:
        return None, f"fairseq_srupp.{module} is not built: {needs}{HOW_TO_BUILD}"
    except ImportError as error:
        return None, f"fairseq_srupp.{module} does not load ({error}): {HOW_TO_BUILD} again"


def _find_cpu() -> Backend:
    module, missing = _load("_C")
    instruction_set = "" if missing else f", instruction set {module.instruction_set}"
    return Backend("cpu", f"C++ kernels{instruction_set}", missing)


def _find_cuda() -> Backend:
    nvcc = shutil.which("nvcc") or os.environ.get("CUDA_HOME")
    how = "FAIRSEQ_SRUPP_CUDA=1 in the environment shows why; " if nvcc else "with nvcc in PATH or CUDA_HOME, "
    missing = _without_cuda() or _load("_C_cuda", how)[1]
    return Backend("cuda", "CUDA kernels built by nvcc", missing)


def _find_nvrtc() -> Backend:
    missing = _without_cuda() or nvrtc.missing()
    return Backend("cuda", "CUDA kernels compiled by NVRTC at first use", missing)


def _without_cuda() -> str | None:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build without CUDA: install one with it"
    return None


_BACKENDS = {  # in order of preference
    "cpu": _find_cpu(),
    "cuda": _find_cuda(),
    "nvrtc": _find_nvrtc(),
    "reference": Backend(None, "plain PyTorch, for every device"),
}
OPERATOR_NAMES = (*_BACKENDS, FALLBACK)


def backends() -> dict[str, tuple[bool, str]]:
    """For each backend: whether it is available, and what it is, or why it is missing and what to do."""
    return {name: (found.missing is None, found.missing or found.about) for name, found in _BACKENDS.items()}


_REFUSED: set[int] = set()  # indices of the GPUs that _C_cuda does not run on


@functools.cache
def _try_cuda(index: int) -> None:
    """Finds out whether _C_cuda runs on the GPU of this index, and says why not."""
    reason = importlib.import_module("fairseq_srupp._C_cuda").refusal(index)
    if reason is None:
        return
    _REFUSED.add(index)
    instead = "compiled by NVRTC" if _BACKENDS["nvrtc"].missing is None else "in PyTorch"
    warnings.warn(
        f"fairseq_srupp._C_cuda does not run on cuda:{index} ({reason}): the SRU++ recurrence is {instead} instead; "
        f"{HOW_TO_BUILD} for this machine",
        stacklevel=4,
    )


def _runs_on(name: str, index: int) -> bool:
    if name != "cuda":
        return True
    if not torch.compiler.is_compiling():  # which cannot look inside; a model's first call is rarely compiled
        _try_cuda(index)
    return index not in _REFUSED


def choose_backend(device_type: str, requested: str | None, index: int = 0) -> str:
    """The operators to take for tensors on the device of this type and index: one of OPERATOR_NAMES.

    Raises ValueError for a name that does not exist or serves another device, RuntimeError for a backend that
    is missing.
    """
    if requested is None:
        for name, backend in _BACKENDS.items():
            if backend.device_type == device_type and backend.missing is None and _runs_on(name, index):
                return name
        return "reference" if device_type == "meta" else FALLBACK
    if requested not in _BACKENDS:
        names = ", ".join(_BACKENDS)
        raise ValueError(f"sru_recurrence: backend is {requested!r}, expected None or one of {names}")
    backend = _BACKENDS[requested]
    if backend.missing is not None:
        raise RuntimeError(f"sru_recurrence: backend {requested!r} is not available: {backend.missing}")
    if backend.device_type not in (None, device_type) and device_type != "meta":
        serves = f"serves tensors on {backend.device_type}, but u is on {device_type}"
        raise ValueError(f"sru_recurrence: backend {requested!r} {serves}")
    return requested


@functools.cache
def warn_of_reference(device_type: str) -> None:
    """Says, once for each type of device, that the reference has to do, and what would be faster."""
    reasons = [backend.missing for backend in _BACKENDS.values() if backend.device_type == device_type]
    reason = "; ".join(filter(None, reasons)) or f"there are no compiled kernels for {device_type} tensors yet"
    warnings.warn(f"the SRU++ recurrence runs on its slow PyTorch reference: {reason}", stacklevel=3)
