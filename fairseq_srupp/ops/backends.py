"""Which backends of the recurrence exist here, and which one a call takes.

A backend is a pair of operators, `fairseq_srupp::<name>_forward` and `<name>_backward` (see recurrence.py),
and one entry in `_BACKENDS`. What is built is looked for once, on import; nothing is ever built here.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from typing import NamedTuple

import torch  # also loads the libraries that _C and _C_cuda are linked to

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


def _find_cpu() -> Backend:
    about, missing = "C++ kernels", None
    try:
        about += f", instruction set {importlib.import_module('fairseq_srupp._C').instruction_set}"
    except ModuleNotFoundError:
        missing = f"fairseq_srupp._C is not built: {HOW_TO_BUILD}"
    except ImportError as error:
        missing = f"fairseq_srupp._C does not load ({error}): {HOW_TO_BUILD} again"
    return Backend("cpu", about, missing)


def _find_cuda() -> Backend:
    about, missing = "CUDA kernels built by nvcc", None
    if torch.version.cuda is None:
        missing = f"torch {torch.__version__} is a build without CUDA: install one with it"
    else:
        try:
            importlib.import_module("fairseq_srupp._C_cuda")
        except ModuleNotFoundError:
            missing = f"fairseq_srupp._C_cuda is not built: with nvcc in PATH or CUDA_HOME, {HOW_TO_BUILD}"
        except ImportError as error:
            missing = f"fairseq_srupp._C_cuda does not load ({error}): {HOW_TO_BUILD} again"
    return Backend("cuda", about, missing)


def _find_nvrtc() -> Backend:
    about, missing = "CUDA kernels compiled by NVRTC at first use", None
    if torch.version.cuda is None:
        missing = f"torch {torch.__version__} is a build without CUDA: install one with it"
    return Backend("cuda", about, missing)


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


def choose_backend(device_type: str, requested: str | None) -> str:
    """The operators to take for tensors on `device_type`: one of OPERATOR_NAMES.

    Raises ValueError for a name that does not exist or serves another device, RuntimeError for a backend that
    is missing.
    """
    if requested is None:
        for name, backend in _BACKENDS.items():
            if backend.device_type == device_type and backend.missing is None:
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
    reason = (
        "; ".join(filter(None, reasons)) or f"there are no compiled kernels for {device_type} tensors yet"
    )
    warnings.warn(f"the SRU++ recurrence runs on its slow PyTorch reference: {reason}", stacklevel=3)
