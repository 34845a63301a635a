"""The CUDA kernels without a GPU: their source, compiled for the host, against the fp64 reference.

Launches are those of cuda_launch.py, the shapes of blocks and the structures of arguments included.
"""

import ctypes
import functools
import itertools
import os
import shutil
import subprocess
from pathlib import Path

import op_calls
import pytest
import torch

from fairseq_srupp.ops import cuda_launch, reference
from fairseq_srupp.ops.reference import state_dtype

ROOT = Path(__file__).parents[2]
HOST = Path(__file__).parent / "cuda_on_host"
HALF = [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, torch.float64, *HALF]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@pytest.fixture(scope="session")
def device(tmp_path_factory):
    """A function that launches kernels on the CPU. `device.names` are those that it launched; `device.only_from` lets the
    next kernel copy from these tensors alone."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if not compiler:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("host") / "kernels.so"
    flags = os.environ.get("SRUPP_HOST_FLAGS", "").split()  # sanitizers
    flags += ["-std=c++17", "-O1", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{ROOT / 'csrc'}", f"-I{HOST}"]
    subprocess.run([compiler, *flags, str(HOST / "kernels.cpp"), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    start, allow = loaded.launch, loaded.allow
    start.restype = ctypes.c_longlong
    names = []

    def launch(name, blocks, threads, arguments):
        names.append(name)
        wrong = start(name.encode(), ctypes.c_longlong(blocks), threads, ctypes.byref(arguments))
        allow(None, ctypes.c_longlong(0))
        assert wrong == 0, f"{name}: {wrong} forbidden copies" if wrong > 0 else f"{name} does not exist"

    def only_from(*tensors):
        for tensor in tensors:
            if tensor is not None and tensor.numel():
                allow(ctypes.c_void_p(tensor.data_ptr()), ctypes.c_longlong(tensor.nbytes))

    launch.names, launch.only_from = names, only_from
    return launch


@pytest.fixture(params=[1, 2])
def per_lane(request, monkeypatch):
    """The channels of a lane in half precision where rows are read 16 bytes at a time, also of calls as small as these."""
    if request.param == 2:
        monkeypatch.setattr(cuda_launch, "MANY_WARPS", 1)
    return request.param


@pytest.fixture
def poisoned(monkeypatch):
    """New tensors begin as NaN: what a kernel does not write shows."""
    for name in ("empty_like", "empty"):
        original = getattr(torch, name)
        monkeypatch.setattr(torch, name, functools.partial(_poison, original))
    original = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size, **options: _poison(original, self, *size, **options))


def _poison(make, *args, **kwargs):
    tensor = make(*args, **kwargs)
    return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor


def arguments(length, batch, channels, dtype, *, c0=True, mask=True, padding=True, narrow=False, seed=0):
    """The tensor arguments of `*_forward`, all but one optional, and gradients of h and c_last."""
    generator = torch.Generator().manual_seed(seed)
    random = lambda *size: torch.randn(*size, generator=generator, dtype=torch.double)
    state = state_dtype(dtype)
    call = [
        random(length, batch, 3, channels).to(dtype),
        random(length, batch, channels).to(dtype),
        random(2, channels).to(dtype if narrow else state),
        random(2, channels).to(dtype if narrow else state),
        random(batch, channels).to(state) if c0 else None,
        (torch.rand(batch, channels, generator=generator) > 0.3).to(state) / 0.7 if mask else None,
        torch.rand(length, batch, generator=generator) > 0.7 if padding else None,
    ]
    return call, random(length, batch, channels).to(dtype), random(batch, channels).to(state)


def doubles(tensors):
    return [None if t is None else t.double() if t.is_floating_point() else t for t in tensors]


def check(launch, length, batch, channels, dtype, bidirectional=False, grads=(True, True), **options):
    call, grad_h, grad_c_last = arguments(length, batch, channels, dtype, **options)
    grads = [grad_h if grads[0] else None, grad_c_last if grads[1] else None]
    launch.only_from(*call)
    h, c_last, c = cuda_launch.forward(launch, *call, bidirectional, True)
    wide = doubles(call)
    expected = reference.recurrence_forward(*wide, bidirectional, True)
    close = functools.partial(assert_close, dtype=dtype)
    for found, wanted in zip((h, c_last, c), expected):
        close(found, wanted)
    unsaved = cuda_launch.forward(launch, *call, bidirectional, False)
    assert torch.equal(unsaved[0], h) and torch.equal(unsaved[1], c_last) and unsaved[2].numel() == 0
    launch.only_from(*call, *grads, c)
    gradients = cuda_launch.backward(launch, *grads, *call, c, bidirectional)
    wanted = reference.recurrence_backward(*doubles(grads), *wide, c.double(), bidirectional)
    for found, reference_gradient in zip(gradients, wanted):
        close(found, reference_gradient)
    assert [g.dtype for g in gradients] == [dtype, dtype, call[2].dtype, call[3].dtype, state_dtype(dtype)]


def assert_close(found, wanted, dtype):
    """To a tolerance that grows with the size of the values: sums over many steps lose digits."""
    assert found.shape == wanted.shape
    scale = max(1.0, wanted.abs().max().item()) if wanted.numel() else 1.0
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 2, 17, 128])
@pytest.mark.parametrize("channels", [1, 31, 32, 72])
def test_lengths_and_widths(device, poisoned, dtype, length, channels):
    check(device, length, 2, channels, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_steps(device, poisoned, dtype):
    check(device, 1000, 1, 40, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("channels", [2, 46, 64, 144])
@pytest.mark.parametrize("length", [1, 9, 50])
def test_both_directions(device, poisoned, dtype, channels, length):
    check(device, length, 3, channels, dtype, bidirectional=True)


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("channels", [8, 56, 64, 72, 200])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("length", [2, 8, 41, 64, 300])
def test_rows_read_16_bytes_at_a_time(device, poisoned, per_lane, dtype, channels, bidirectional, length):
    device.names.clear()
    check(device, length, 2, channels * (1 + bidirectional), dtype, bidirectional=bidirectional)
    kinds = [name.removeprefix("srupp_").rpartition("_")[0] for name in device.names]
    assert kinds == [f"forward_16_{per_lane}", f"forward_16_{per_lane}", f"backward_16_{per_lane}", "sum"]


@pytest.mark.parametrize("given", list(itertools.product([False, True], repeat=3)), ids=str)
@pytest.mark.parametrize("grads", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_optional_argument(device, poisoned, per_lane, given, grads, dtype):
    c0, mask, padding = given
    check(device, 19, 2, 40, dtype, grads=grads, c0=c0, mask=mask, padding=padding)


def test_sequences_are_read_16_bytes_at_a_time_or_as_many_as_they_can_be(device):
    for channels, bidirectional, dtype, piece in (
        (64, False, torch.bfloat16, 16),
        (40, False, torch.bfloat16, 16),
        (36, False, torch.bfloat16, 4),
        (38, False, torch.float16, 4),
        (35, False, torch.bfloat16, 2),
        (36, False, torch.float32, 16),
        (38, False, torch.float32, 4),
        (80, True, torch.bfloat16, 16),
        (72, True, torch.bfloat16, 4),
        (70, True, torch.bfloat16, 2),
        (36, False, torch.float64, 16),
        (35, False, torch.float64, 8),
    ):
        device.names.clear()
        check(device, 9, 1, channels, dtype, bidirectional=bidirectional)
        assert [name for name in device.names if f"_{piece}_1_" in name] == [name for name in device.names if "_sum_" not in name]


@pytest.mark.parametrize(
    "batch, channels, bidirectional, dtype, kind, warps",
    [
        (4, 3072, False, torch.bfloat16, "16_1", 4 * 96),
        (16, 3072, False, torch.bfloat16, "16_2", 16 * 48),
        (16, 3072, False, torch.float16, "16_2", 16 * 48),
        (16, 3072, False, torch.float32, "16_1", 16 * 96),
        (15, 1024, False, torch.bfloat16, "16_1", 15 * 32),
        (16, 1024, False, torch.bfloat16, "16_2", 16 * 16),
        (8, 2048, True, torch.bfloat16, "16_2", 8 * 2 * 16),
        (16, 1040, True, torch.bfloat16, "16_2", 16 * 2 * 9),
        (24, 2012, False, torch.bfloat16, "4_1", 24 * 63),
        (24, 2013, False, torch.bfloat16, "2_1", 24 * 63),
    ],
    ids=str,
)
def test_many_warps_have_two_channels_a_lane(batch, channels, bidirectional, dtype, kind, warps):
    """Where that leaves 256 of them, and rows are read 16 bytes at a time."""
    call, grad_h, _ = arguments(2, batch, channels, dtype, c0=False, mask=False, padding=False)
    launched = []
    launch = lambda name, blocks, threads, _: launched.append((name, blocks, threads))
    *_, c = cuda_launch.forward(launch, *call, bidirectional, True)
    cuda_launch.backward(launch, grad_h, None, *call, c, bidirectional)
    type = str(dtype).removeprefix("torch.")
    assert launched[:2] == [(f"srupp_{way}_{kind}_{type}", warps, 32) for way in ("forward", "backward")]


def displaced(tensor, by):
    """A copy that begins `by` bytes after a multiple of 16."""
    by //= tensor.element_size()
    whole = torch.empty(tensor.numel() + by, dtype=tensor.dtype)
    whole[by:] = tensor.flatten()
    return whole[by:].view(tensor.shape)


@pytest.mark.parametrize("by", [2, 4, 8])
@pytest.mark.parametrize("which", ["u", "x", "c", "grad_h"])
def test_tensors_that_begin_between_two_pieces(device, per_lane, which, by):
    call, grad_h, _ = arguments(12, 2, 64, torch.bfloat16)
    tensors = {"u": call[0], "x": call[1], "c": torch.randn_like(call[1]), "grad_h": grad_h}

    def run(u, x, c, grad_h):
        device.names.clear()
        inputs = [u, x, *call[2:]]
        both = cuda_launch.forward(device, *inputs, False, False)[:2]
        return [*both, *cuda_launch.backward(device, grad_h, None, *inputs, c, False)]

    expected = run(**tensors)
    assert device.names[:2] == [f"srupp_{way}_16_{per_lane}_bfloat16" for way in ("forward", "backward")]
    found = run(**{**tensors, which: displaced(tensors[which], by)})
    assert all(torch.equal(a, b) for a, b in zip(found, expected))
    piece = min(by, 4)
    assert device.names[1] == f"srupp_backward_{piece}_1_bfloat16"
    assert (device.names[0] == f"srupp_forward_{piece}_1_bfloat16") == (which in "ux")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [1, 20])
def test_parameters_as_narrow_as_u(device, poisoned, per_lane, dtype, length):
    check(device, length, 3, 40, dtype, narrow=True)
    check(device, length, 3, 70, dtype, narrow=True, bidirectional=True)
    check(device, length, 3, 80, dtype, narrow=True, bidirectional=True)


@pytest.mark.parametrize("shape", [(0, 2, 8), (5, 0, 8), (5, 2, 0), (0, 0, 0)], ids=str)
def test_empty(device, poisoned, shape):
    check(device, *shape, torch.float32)


def test_one_step_is_one_launch(device):
    for narrow in (False, True):
        call, *_ = arguments(1, 3, 50, torch.bfloat16, narrow=narrow)
        device.names.clear()
        cuda_launch.forward(device, *call, False, False)
        assert device.names == ["srupp_step_bfloat16"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_channel_depends_on_itself_alone(device, per_lane, dtype):
    call, *_ = arguments(40, 2, 64, dtype)
    clean = cuda_launch.forward(device, *call, False, False)[0]
    call[0][:, 0, :, 5] = float("nan")
    h = cuda_launch.forward(device, *call, False, False)[0]
    hit = h.isnan()
    assert hit[~call[6][:, 0], 0, 5].all() and hit.sum() == hit[:, 0, 5].sum()
    assert torch.equal(h[~hit], clean[~hit])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_inputs_saturate(device, dtype):
    call, *_ = arguments(9, 2, 40, dtype, padding=False)
    for gate, value in itertools.product((1, 2), (-1e4, 1e4)):
        call[0][:, :, gate] = value
        h, c_last, _ = cuda_launch.forward(device, *call, False, False)
        assert h.isfinite().all() and c_last.isfinite().all()
    call[0][:, :, 1] = 1e4
    assert torch.equal(cuda_launch.forward(device, *call, False, False)[1], call[4]), "the state is kept"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_padded_steps_keep_the_state_exactly(device, poisoned, per_lane, dtype, bidirectional):
    """Whatever stands in them."""
    length = 50
    call, grad_h, grad_c_last = arguments(length, 2, 80, dtype)
    call[0].fill_(float("nan")), call[1].fill_(float("nan")), call[6].fill_(True)
    h, c_last, c = cuda_launch.forward(device, *call, bidirectional, True)
    assert torch.equal(c_last, call[4]) and not h.any()
    assert torch.equal(c, call[4].to(dtype).expand(length, -1, -1))
    grad_h.fill_(float("nan"))
    gradients = cuda_launch.backward(device, grad_h, grad_c_last, *call, c, bidirectional)
    assert not any(gradient.any() for gradient in gradients[:4]) and torch.equal(gradients[4], grad_c_last)


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_random_calls(device, per_lane, first):
    """With infinities and NaN in inputs, padding and states."""
    forward, backward = (functools.partial(way, device) for way in (cuda_launch.forward, cuda_launch.backward))
    for seed in range(first, first + 25):
        call = op_calls.random_call(seed)
        found = op_calls.faults(call, lambda call: op_calls.by_operators(call, forward, backward))
        assert found == [], f"call {seed}: {call.description}"


def test_the_compiled_module_has_the_same_rule():
    """As far as that shows without a GPU."""
    text = (ROOT / "csrc" / "cuda" / "recurrence.cpp").read_text()
    assert f"kManyWarps = {cuda_launch.MANY_WARPS};" in text


def test_structures_are_those_of_the_source():
    """The sizes and the order of the fields, read from the header."""
    text = (ROOT / "csrc" / "cuda" / "arguments.h").read_text()
    for name in ("CommonArguments", "ForwardArguments", "BackwardArguments", "SumArguments"):
        body = text.split(f"struct {name} {{")[1].split("};")[0]
        lines = [line.split("//")[0].strip().rstrip(";") for line in body.splitlines()]
        fields = [field.split()[-1].lstrip("*") for line in lines if line for field in line.split(",")]
        mirrored = [field for field, _ in getattr(cuda_launch, name)._fields_]
        assert [field.replace("common", "in") for field in mirrored] == fields
