"""The CUDA kernels through their compilers, which need no GPU: nvcc, and NVRTC with its cache."""

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from fairseq_srupp.ops import nvrtc

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def nvcc():
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=os.path.join(home, "bin")) if home else shutil.which("nvcc")
    if not found:
        pytest.skip("there is no nvcc")
    return found


def test_nothing_spills(nvcc, tmp_path):
    command = [nvcc, "-arch=sm_90", "-std=c++17", "-O3", "-Xptxas=-v", "-cubin"]
    command += ["csrc/cuda/kernels.cu", "-o", str(tmp_path / "kernels.cubin")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    kernels = re.findall(r"Compiling entry function '(\w+)'", done.stderr)
    assert len(set(kernels)) == 28
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert len(spills) >= len(kernels) and set(spills) == {("0", "0")}, done.stderr


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """NVRTC with an empty cache."""
    monkeypatch.setenv("FAIRSEQ_SRUPP_CACHE", str(tmp_path / "cache"))
    try:
        nvrtc._version()
    except nvrtc.NvrtcError as error:
        pytest.skip(str(error))
    return nvrtc


@pytest.mark.parametrize("dtype", nvrtc._TYPES, ids=str)
def test_nvrtc_compiles_the_same_source(compiler, dtype):
    code = compiler.image(dtype, (9, 0))
    assert code[:4] == b"\x7fELF"
    name = str(dtype).removeprefix("torch.")
    pieces = {16, 4, dtype.itemsize} if dtype.itemsize < 4 else {16, dtype.itemsize}
    sequences = [f"{direction}_{piece}" for direction in ("forward", "backward") for piece in pieces]
    for kernel in (*sequences, "step", "sum"):
        assert f"srupp_{kernel}_{name}".encode() in code


def test_a_gpu_that_nvrtc_does_not_know_gets_ptx(compiler):
    code = compiler.image(torch.float32, (99, 0))
    assert b".version" in code and b".target sm_" in code


def test_compiling_happens_once(compiler, monkeypatch, tmp_path):
    first = compiler.image(torch.float32, (9, 0))
    (path,) = (tmp_path / "cache").iterdir()
    original, compiled = compiler._compile, []
    monkeypatch.setattr(compiler, "_compile", lambda *a: compiled.append(1) or original(*a))
    assert compiler.image(torch.float32, (9, 0)) == first and not compiled
    for damage in (path.read_bytes()[:-100], b"", b"x" * 1000):
        path.write_bytes(damage)
        assert compiler.image(torch.float32, (9, 0)) == first
        assert path.read_bytes()[32:] == first
    assert len(compiled) == 3
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [path.name], "no temporary file is left"
    compiler.image(torch.float32, (8, 0))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_cache_that_cannot_be_written_is_no_error(compiler, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FAIRSEQ_SRUPP_CACHE", str(tmp_path / "file" / "below"))
    assert compiler.image(torch.float32, (9, 0))


def test_the_cache_by_itself(monkeypatch, tmp_path):
    monkeypatch.setenv("FAIRSEQ_SRUPP_CACHE", str(tmp_path / "cache"))
    made = []
    make = lambda: made.append(1) or b"code"
    assert nvrtc._cached("key", make) == nvrtc._cached("key", make) == b"code"
    assert len(made) == 1
    (tmp_path / "cache" / "key").write_bytes(b"half of")
    assert nvrtc._cached("key", make) == b"code" and len(made) == 2
    assert [p.name for p in (tmp_path / "cache").iterdir()] == ["key"]


def test_a_cache_on_a_full_disk_leaves_nothing(monkeypatch, tmp_path):
    class Full:
        def __init__(self, file):
            self.name, self.file = file.name, file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, data):
            raise OSError(28, "No space left on device")

    original = tempfile.NamedTemporaryFile
    monkeypatch.setenv("FAIRSEQ_SRUPP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "NamedTemporaryFile", lambda **options: Full(original(**options)))
    assert nvrtc._cached("key", lambda: b"code") == b"code"
    assert not list((tmp_path / "cache").iterdir())


def test_a_user_without_a_home(monkeypatch):
    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    for name in ("FAIRSEQ_SRUPP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    assert nvrtc._cached("key", lambda: b"code") == b"code"


def test_a_gpu_that_is_too_old(monkeypatch):
    monkeypatch.setattr(nvrtc, "_architectures", lambda: [75, 90])
    with pytest.raises(nvrtc.NvrtcError, match="sm_75 and later, the GPU is sm_70"):
        nvrtc.image(torch.float32, (7, 0))


def test_where_the_cache_is(monkeypatch):
    monkeypatch.delenv("FAIRSEQ_SRUPP_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert nvrtc.cache_folder() == Path("/somewhere/fairseq_srupp")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert nvrtc.cache_folder() == Path.home() / ".cache" / "fairseq_srupp"


def test_the_source_is_one_piece_in_the_order_of_use():
    source = nvrtc._kernel_source()
    assert "#include \"" not in source and "#pragma once" not in source
    places = [source.index(text) for text in ("struct BFloat16", "struct CommonArguments", "copy_ahead(", "#define SRUPP_KERNELS")]
    assert places == sorted(places)
