"""The CUDA kernels through their compilers, which need no GPU: nvcc, and NVRTC with its cache."""

import ctypes
import os
import re
import shutil
import subprocess
import types
from pathlib import Path

import pytest
import torch

from fairseq_srupp.ops import cuda_launch, nvrtc

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def nvcc():
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=os.path.join(home, "bin")) if home else shutil.which("nvcc")
    if not found:
        pytest.skip("there is no nvcc")
    return found


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """NVRTC with an empty cache, and `logs`: what it said of each program, registers and spills included."""
    if nvrtc.missing():
        pytest.skip("there is no libnvrtc: the extra `test` brings it, and every torch with CUDA")
    original, logs = nvrtc._compile, []

    def compile_and_tell(program, options, target):
        code, log = original(program, [*options, "--ptxas-options=-v"], target)
        logs.append(log)
        return code, log

    monkeypatch.setenv("FAIRSEQ_SRUPP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "_compile", compile_and_tell)
    return types.SimpleNamespace(image=nvrtc.image, logs=logs)


def resources(log):
    """What ptxas says of each kernel: {name: (registers, bytes of shared memory)}. No thread has a stack."""
    found = {}
    for part in log.split("Compiling entry function '")[1:]:
        stacks = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part)
        assert set(stacks) == {("0", "0", "0")}, part
        (registers,) = re.findall(r"Used (\d+) registers", part)
        shared = re.findall(r"(\d+) bytes smem", part) or ["0"]
        found[part.split("'")[0]] = int(registers), int(shared[0])
    return found


def names(dtype):
    """The kernels that a dtype has."""
    kinds = ["16_2", "16_1", "4_1", "2_1"] if dtype.itemsize < 4 else ["16_1", f"{dtype.itemsize}_1"]
    sequences = [f"{direction}_{kind}" for direction in ("forward", "backward") for kind in kinds]
    return {f"srupp_{kernel}_{str(dtype).removeprefix('torch.')}" for kernel in (*sequences, "step", "sum")}


def test_nothing_spills(nvcc, tmp_path):
    command = [nvcc, "-arch=sm_90", "-std=c++17", "-O3", "-Xptxas=-v", "-cubin"]
    command += ["csrc/cuda/kernels.cu", "-o", str(tmp_path / "kernels.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert resources(done.stderr).keys() == set().union(*map(names, nvrtc._TYPES))


# KiB of shared memory of a multiprocessor, by compute capability (CUDA programming guide, technical specifications)
SHARED_MEMORY = {(8, 0): 164, (9, 0): 228, (10, 0): 228, (12, 0): 100}


@pytest.mark.parametrize("capability", SHARED_MEMORY, ids=str)
@pytest.mark.parametrize("dtype", nvrtc._TYPES, ids=str)
def test_nvrtc_compiles_the_same_source_and_nothing_spills(compiler, dtype, capability):
    """And where rows are read 16 bytes at a time, as of every usual width, shared memory alone limits how many warps a
    multiprocessor has: they find registers enough."""
    if 10 * capability[0] not in nvrtc._architectures():
        pytest.skip("the NVRTC of this torch is older than such GPUs")
    code = compiler.image(dtype, capability)
    assert code[:4] == b"\x7fELF" and compiler.image(dtype, capability) == code
    (log,) = compiler.logs
    kernels = resources(log)
    assert kernels.keys() == names(dtype)
    for name, (registers, shared) in kernels.items():
        assert name.encode() in code
        if "_16_" in name:
            fit = SHARED_MEMORY[capability] * 1024 // (shared + 1024)  # 1 KiB of each block is the system's
            # a quarter of the 65,536 registers for every scheduler; a warp gets them 8 a thread at a time
            assert 4 * (16_384 // (32 * rounded(registers))) >= fit, (name, registers)
            if capability == (9, 0) and dtype.itemsize <= 4:  # the figures of examples/benchmarks/RESULTS.md
                most = {"forward_16_1": 128, "backward_16_1": 144, "forward_16_2": 136, "backward_16_2": 248}
                assert rounded(registers) <= most[name.removeprefix("srupp_").rpartition("_")[0]], (name, registers)


def rounded(registers):
    return -(-registers // 8) * 8


def test_a_gpu_that_nvrtc_does_not_know_gets_ptx(compiler):
    """Which also tells how kernels are to be launched."""
    text = compiler.image(torch.float32, (99, 0)).decode()
    assert f".target sm_{max(nvrtc._architectures())}" in text
    launches = re.findall(r"\.entry (\w+)\(\s*\.param \.align 8 \.b8 \w+\[(\d+)\]\s*\)\s*\.maxntid (\d+)", text)
    structures = {
        "forward": cuda_launch.ForwardArguments,
        "step": cuda_launch.ForwardArguments,
        "backward": cuda_launch.BackwardArguments,
        "sum": cuda_launch.SumArguments,
    }
    assert {name for name, *_ in launches} == names(torch.float32)
    for name, size, threads in launches:
        kind = name.split("_")[1]
        assert int(size) == ctypes.sizeof(structures[kind])
        assert int(threads) == (cuda_launch._THREADS if kind in ("step", "sum") else cuda_launch.WARP)


def test_compiling_happens_once(monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRSEQ_SRUPP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nvrtc, "_architectures", lambda: [80, 90])
    monkeypatch.setattr(nvrtc, "_version", lambda: (13, 0))
    compiled = []
    monkeypatch.setattr(nvrtc, "_compile", lambda *_: compiled.append(1) or (b"code" * 100, ""))
    first = nvrtc.image(torch.float32, (9, 0))
    (path,) = (tmp_path / "cache").iterdir()
    assert nvrtc.image(torch.float32, (9, 0)) == first and len(compiled) == 1
    for damage in (path.read_bytes()[:-100], b"", b"x" * 1000):
        path.write_bytes(damage)
        assert nvrtc.image(torch.float32, (9, 0)) == first
        assert path.read_bytes()[32:] == first
    assert len(compiled) == 4
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [path.name], "no temporary file is left"
    nvrtc.image(torch.float32, (8, 0))
    monkeypatch.setattr(nvrtc, "_version", lambda: (13, 1))
    nvrtc.image(torch.float32, (8, 0))
    assert len(compiled) == 6 and len(list((tmp_path / "cache").iterdir())) == 3


def test_a_gpu_that_is_too_old(monkeypatch):
    monkeypatch.setattr(nvrtc, "_architectures", lambda: [75, 90])
    with pytest.raises(nvrtc.NvrtcError, match="sm_75 and later, the GPU is sm_70"):
        nvrtc.image(torch.float32, (7, 0))


@pytest.mark.parametrize(
    "cuda, name",
    [("13.0", "nvidia/cu13/lib/libnvrtc.so.13"), ("12.8", "nvidia/cuda_nvrtc/lib/libnvrtc.so.12")]
    + [(None, "nvidia/cu13/lib/libnvrtc.so.13"), ("14.0", None)],
)
def test_the_library_is_that_of_torch(monkeypatch, tmp_path, cuda, name):
    """Where the packages of CUDA 12 and 13 put it; a torch without CUDA takes any."""
    for file in ("cu13/lib/libnvrtc.so.13", "cu13/lib/libnvrtc.alt.so.13", "cuda_nvrtc/lib/libnvrtc.so.12"):
        path = tmp_path / "[env]" / "nvidia" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "[env]" / "torch" / "__init__.py"))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    assert nvrtc.library_path() == (str(tmp_path / "[env]" / name) if name else "libnvrtc.so.14")


def test_the_source_is_one_piece_in_the_order_of_use():
    source = nvrtc._kernel_source()
    assert '#include "' not in source and "#pragma once" not in source
    order = ("struct BFloat16", "struct CommonArguments", "copy_ahead(", "class RowsAhead", "#define SRUPP_KERNELS")
    places = [source.index(text) for text in order]
    assert places == sorted(places)
