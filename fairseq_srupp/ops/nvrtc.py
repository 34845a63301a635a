"""The CUDA kernels compiled by NVRTC, where torch came with a GPU but no nvcc was there to build _C_cuda.

Compiled at first use, one module for each dtype and architecture, and kept on disk (kernel_cache.py). libnvrtc comes
with every CUDA build of torch, and the kernels include no header of CUDA's, so nothing else has to be installed.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
from pathlib import Path

import torch

from fairseq_srupp.ops.kernel_cache import cached

_PACKAGE = Path(__file__).parents[1]
_SOURCES = ("recurrence.h", "cuda/arguments.h", "cuda/device.cuh", "cuda/read_ahead.cuh", "cuda/kernels.cuh")
_TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "srupp::Half",
    torch.bfloat16: "srupp::BFloat16",
}


class NvrtcError(RuntimeError):
    """NVRTC or the driver refused; the message has their reason."""


def source_folder() -> Path:
    """Where csrc is: beside the package in a clone, inside it when installed."""
    for folder in (_PACKAGE / "csrc", _PACKAGE.parent / "csrc"):
        if (folder / _SOURCES[-1]).is_file():
            return folder
    raise NvrtcError("fairseq_srupp: the sources of the CUDA kernels are missing; install the package again")


def library_path() -> str:
    """libnvrtc: that of torch's CUDA version, among torch's dependencies or wherever the loader looks."""
    major = torch.version.cuda.split(".")[0] if torch.version.cuda else "*"
    name = f"libnvrtc.so.{major}"
    folder = Path(torch.__file__).parent
    found = [*sorted((folder.parent / "nvidia").glob(f"*/lib/{name}")), *sorted((folder / "lib").glob(name))]
    return str(found[0]) if found else name


def missing() -> str | None:
    """Why nothing can be compiled, and what to do, or None. Loads no library of torch's."""
    try:
        source_folder()
    except NvrtcError as error:
        return str(error)
    path = library_path()
    if not os.path.isabs(path):
        try:
            ctypes.CDLL(path)
        except OSError:
            return f"{path} is missing, which comes with torch: `pip install --force-reinstall torch` brings it back"
    return None


@functools.cache
def _nvrtc() -> ctypes.CDLL:
    path = Path(library_path())
    try:
        if path.is_absolute():  # it opens this by name when it compiles, and CUDA 13.0's does not look beside itself
            for builtins in path.parent.glob("libnvrtc-builtins.so.*"):
                ctypes.CDLL(str(builtins))
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise NvrtcError(f"fairseq_srupp: libnvrtc, which comes with torch, does not load: {error}") from error


def _nvrtc_call(name: str, *arguments) -> None:
    library = _nvrtc()
    status = getattr(library, name)(*arguments)
    if status:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise NvrtcError(f"fairseq_srupp: {name}: {library.nvrtcGetErrorString(status).decode()}")


def _version() -> tuple[int, int]:
    major, minor = ctypes.c_int(), ctypes.c_int()
    _nvrtc_call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
    return major.value, minor.value


def _architectures() -> list[int]:
    count = ctypes.c_int()
    _nvrtc_call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
    numbers = (ctypes.c_int * count.value)()
    _nvrtc_call("nvrtcGetSupportedArchs", numbers)
    return list(numbers)


def image(dtype: torch.dtype, capability: tuple[int, int]) -> bytes:
    """The compiled kernels of a dtype for GPUs of a compute capability, from the cache if they are there.

    A GPU younger than NVRTC gets PTX, which the driver translates.

    Raises:
        NvrtcError: with the compiler's log.
    """
    wanted = 10 * capability[0] + capability[1]
    known = _architectures()
    older = max((number for number in known if number <= wanted), default=None)
    if older is None:
        raise NvrtcError(f"fairseq_srupp: this NVRTC compiles for sm_{min(known)} and later, the GPU is sm_{wanted}")
    target = f"sm_{wanted}" if wanted in known else f"compute_{older}"
    name = str(dtype).removeprefix("torch.")
    program = f"{_kernel_source()}\nSRUPP_KERNELS({_TYPES[dtype]}, {name})\n"
    options = [f"--gpu-architecture={target}", "--std=c++17", "--fmad=true"]
    digest = hashlib.sha256(repr((program, options, _version())).encode()).hexdigest()
    return cached(f"{name}-{target}-{digest[:32]}", lambda: _compile(program, options, target)[0])


def _kernel_source() -> str:
    """The sources in one piece, each after what it includes."""
    folder = source_folder()
    lines = [line for name in _SOURCES for line in (folder / name).read_text(encoding="utf-8").splitlines()]
    return "\n".join(line for line in lines if not line.startswith(('#include "', "#pragma once")))


def _compile(program: str, options: list[str], target: str) -> tuple[bytes, str]:
    """The compiled program and what the compiler said."""
    handle = ctypes.c_void_p()
    text, name = program.encode(), b"fairseq_srupp.cu"
    _nvrtc_call("nvrtcCreateProgram", ctypes.byref(handle), text, name, 0, None, None)
    try:
        arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = _nvrtc().nvrtcCompileProgram(handle, len(options), arguments)
        log = _get(handle, "ProgramLog").rstrip(b"\0").decode()
        if failed:
            raise NvrtcError(f"fairseq_srupp: NVRTC does not compile the kernels:\n{log}")
        return _get(handle, "CUBIN" if target.startswith("sm_") else "PTX"), log
    finally:
        _nvrtc_call("nvrtcDestroyProgram", ctypes.byref(handle))


def _get(handle: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _nvrtc_call(f"nvrtcGet{what}Size", handle, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    _nvrtc_call(f"nvrtcGet{what}", handle, data)
    return data.raw


@functools.cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _driver_call(name: str, *arguments) -> None:
    status = getattr(_driver(), name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise NvrtcError(f"fairseq_srupp: {name}: {(text.value or b'unknown error').decode()}")


@functools.cache
def _primary_context(device: int) -> ctypes.c_void_p:
    """The context that torch and CUDA's runtime use on a device."""
    handle, context = ctypes.c_int(), ctypes.c_void_p()
    _driver_call("cuDeviceGet", ctypes.byref(handle), device)
    _driver_call("cuDevicePrimaryCtxRetain", ctypes.byref(context), handle)
    return context


def _enter_context(device: int) -> None:
    """A thread that has not used CUDA yet, such as autograd's, has no context, and torch sees no need for one where the
    device is the current one anyway."""
    current = ctypes.c_void_p()
    _driver_call("cuCtxGetCurrent", ctypes.byref(current))
    if not current:
        _driver_call("cuCtxSetCurrent", _primary_context(device))


@functools.cache
def _function(name: str, dtype: torch.dtype, device: int) -> ctypes.c_void_p:
    """A kernel on the current device, whose index is `device`."""
    function = ctypes.c_void_p()
    _driver_call("cuModuleGetFunction", ctypes.byref(function), _module(dtype, device), name.encode())
    return function


@functools.cache
def _module(dtype: torch.dtype, device: int) -> ctypes.c_void_p:
    module = ctypes.c_void_p()
    code = image(dtype, torch.cuda.get_device_capability(device))
    _driver_call("cuModuleLoadData", ctypes.byref(module), code)
    return module


def launch(tensor: torch.Tensor, name: str, blocks: int, threads: int, arguments: ctypes.Structure) -> None:
    """Start a kernel on the current stream of the tensor's device, for its dtype.

    Raises:
        NvrtcError: it cannot be compiled, loaded or started.
    """
    device = tensor.get_device()
    with torch.cuda.device(device):
        _enter_context(device)
        function = _function(name, tensor.dtype, device)
        parameters = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        stream = ctypes.c_void_p(torch.cuda.current_stream(device).cuda_stream)
        _driver_call("cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, 0, stream, parameters, None)
