"""Which backend a call takes, and what is said where the fast one is missing."""

import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import types

import pytest
import torch

from fairseq_srupp.ops import backends, nvrtc, sru_recurrence
from fairseq_srupp.ops import backends as backends_function

discovery = sys.modules[backends_function.__module__]
ROOT = pathlib.Path(__file__).parents[2]


def run(program: str, **environment: str) -> str:
    """What the program prints, in a fresh Python that has this checkout on its path."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=ROOT / "tests",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


INPUTS = """
import torch
def inputs(length=40, batch=2, channels=130, dtype=torch.float32):
    torch.manual_seed(0)
    shapes = (length, batch, 3, channels), (length, batch, channels), (2, channels), (2, channels)
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]
"""

WITHOUT_KERNELS = """
import sys, warnings
sys.modules["fairseq_srupp._C"] = None  # an import of it fails, as if it were not built
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from fairseq_srupp.ops import backends, sru_recurrence
    assert not [w for w in caught if "SRU++" in str(w.message)], "importing warns"
    if COMPILED:
        call = torch.compile(sru_recurrence, fullgraph=True, backend="aot_eager")
    else:
        call = sru_recurrence
    for _ in range(3):
        call(*inputs())[0].sum().backward()
    sru_recurrence(*inputs(), backend="reference")
warned = [str(w.message) for w in caught if "SRU++" in str(w.message)]
print(len(warned), *warned)
print(backends()["cpu"])
try:
    sru_recurrence(*inputs(), backend="cpu")
except RuntimeError as error:
    print("refused:", error)
"""


@pytest.mark.parametrize("compiled", [False, True])
def test_without_kernels_one_warning_names_the_command(compiled):
    warned, found, refused = run(INPUTS + f"COMPILED = {compiled}" + WITHOUT_KERNELS).splitlines()
    assert warned.startswith("1 the SRU++ recurrence runs on its slow PyTorch reference: fairseq_srupp._C is not built")
    for line in (warned, found, refused):
        assert "`pip install --no-build-isolation -e .`" in line and "`make setup`" in line
    assert found.startswith("(False, ")
    assert refused.startswith("refused: sru_recurrence: backend 'cpu' is not available: ")


def test_kernels_that_do_not_load(monkeypatch):
    def broken(name):
        raise ImportError(f"{name}: undefined symbol: aoti_torch_something")

    monkeypatch.setattr(importlib, "import_module", broken)
    found = discovery._find_cpu()
    assert "does not load (fairseq_srupp._C: undefined symbol: aoti_torch_something)" in found.missing
    assert "`make setup`" in found.missing


@pytest.mark.parametrize("cuda", [None, "13.0"])
def test_cuda_that_is_not_there(monkeypatch, cuda):
    """A torch without CUDA, or kernels that were not built for one with it."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setitem(sys.modules, "fairseq_srupp._C_cuda", None)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(nvrtc, "missing", lambda: None)
    assert ("with nvcc in PATH" if cuda else "is a build without CUDA") in discovery._find_cuda().missing
    assert (discovery._find_nvrtc().missing is None) == bool(cuda)
    monkeypatch.setattr(shutil, "which", lambda name: name)
    assert ("FAIRSEQ_SRUPP_CUDA=1" in discovery._find_cuda().missing) == bool(cuda)


def test_other_devices_go_to_the_reference_and_say_so(monkeypatch):
    assert discovery.choose_backend("xpu", None) == discovery.FALLBACK
    with pytest.warns(UserWarning, match="no compiled kernels for xpu tensors yet"):
        discovery.warn_of_reference("xpu")
    with pytest.raises(ValueError, match="backend 'cpu' serves tensors on cpu, but u is on xpu"):
        discovery.choose_backend("xpu", "cpu")


@pytest.mark.cpu_kernels
def test_kernels_are_taken_without_being_asked_for(recwarn):
    available, about = backends()["cpu"]
    assert available and "instruction set" in about
    assert backends()["reference"][0]
    assert discovery.choose_backend("cpu", None) == "cpu"
    inputs = [torch.randn(shape) for shape in ((3, 2, 3, 4), (3, 2, 4), (2, 4), (2, 4))]
    for got, expected in zip(sru_recurrence(*inputs), sru_recurrence(*inputs, backend="cpu")):
        assert torch.equal(got, expected)
    assert not recwarn.list


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("limit", ["default", "avx2"])
def test_every_instruction_set(limit):
    """ATEN_CPU_CAPABILITY, with which PyTorch limits its own kernels, limits these too."""
    program = (
        INPUTS
        + """
from fairseq_srupp import _C
from fairseq_srupp.ops import sru_recurrence
tolerances = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 4e-2}
print(_C.instruction_set)
for dtype, tolerance in tolerances.items():
    given = inputs(dtype=dtype)
    exact = [tensor.detach().double().requires_grad_() for tensor in given]
    all_results = []
    for tensors, backend in ((given, "cpu"), (exact, "reference")):
        h, c_last = sru_recurrence(*tensors, bidirectional=True, backend=backend)
        all_results.append([h, c_last, *torch.autograd.grad(h.sum() + c_last.sum(), tensors)])
    for got, expected in zip(*all_results):
        error = ((got.double() - expected).abs().max() / expected.abs().max()).item()
        assert error <= tolerance, (dtype, error)
"""
    )
    used = run(program, ATEN_CPU_CAPABILITY=limit).strip()
    assert used == limit or (used == "default" and "avx" not in backends()["cpu"][1])


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("limit", ["default", "avx2"])
def test_gates_in_every_instruction_set(limit):
    """Precision, saturation, NaN and denormals, with the code that other processors run."""
    tests = "range or saturate or nan or denormal"
    file = str(pathlib.Path(__file__).with_name("test_cpu_kernels.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", tests]
    done = subprocess.run(command, env=os.environ | {"ATEN_CPU_CAPABILITY": limit}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout


@pytest.mark.cpu_kernels
def test_kernels_load_when_nothing_was_imported_before():
    assert run("from fairseq_srupp.ops import backends; print(backends()['cpu'])").startswith("(True, ")


def cuda_backends(monkeypatch, **missing):
    """As if _C_cuda and NVRTC were there, but what is in `missing`."""
    for name in ("cuda", "nvrtc"):
        monkeypatch.setitem(discovery._BACKENDS, name, discovery.Backend("cuda", name, missing.get(name)))


def test_built_kernels_that_the_gpu_refuses(monkeypatch):
    """Too old a driver, or a GPU that they were not built for: NVRTC takes over, and is told of once."""
    reasons = {0: None, 1: "no kernel image is available"}
    module = types.SimpleNamespace(refusal=reasons.get)
    monkeypatch.setattr(importlib, "import_module", lambda name: module)
    discovery._try_cuda.cache_clear()
    cuda_backends(monkeypatch)
    assert discovery.choose_backend("cuda", None, 0) == "cuda"
    with pytest.warns(UserWarning, match=r"cuda:1 \(no kernel image is available\).*compiled by NVRTC.*pip install"):
        assert discovery.choose_backend("cuda", None, 1) == "nvrtc"
    assert discovery.choose_backend("cuda", None, 1) == "nvrtc"
    assert discovery.choose_backend("cuda", "cuda", 1) == "cuda"  # asked for
    assert discovery.choose_backend("cuda", None, 0) == "cuda"
    discovery._REFUSED.clear()
    discovery._try_cuda.cache_clear()
    cuda_backends(monkeypatch, nvrtc="there is none")
    with pytest.warns(UserWarning, match="in PyTorch"):
        assert discovery.choose_backend("cuda", None, 1) == discovery.FALLBACK
    discovery._REFUSED.clear()
    discovery._try_cuda.cache_clear()


def test_a_torch_with_cuda_but_no_nvrtc(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.9")
    monkeypatch.setattr(nvrtc, "library_path", lambda: "libnvrtc.so.that.is.nowhere")
    found = discovery._find_nvrtc()
    assert "libnvrtc.so.that.is.nowhere is missing" in found.missing and "pip install" in found.missing


def test_importing_needs_torch_only():
    program = """
import sys, torch
before = set(sys.modules)
import fairseq_srupp.ops
print(*set(sys.modules) - before)
"""
    for name in run(program).split():
        assert name == "fairseq_srupp" or name.startswith(("fairseq_srupp.ops", "fairseq_srupp._C")), name
