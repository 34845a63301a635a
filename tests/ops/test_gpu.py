"""The recurrence on a GPU: both ways to its kernels against the fp64 reference, and what streams, graphs and devices ask."""

import pytest
import torch
from gpu_kernels import launched_by

from fairseq_srupp.ops import backends, sru_recurrence

pytestmark = pytest.mark.gpu
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}


@pytest.fixture(params=["cuda", "nvrtc"])
def backend(request):
    available, why = backends()[request.param]
    if not available:
        pytest.skip(why)
    return request.param


@pytest.fixture
def poison():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def to_gpu(tensors, device="cuda"):
    if isinstance(tensors, dict):
        return {name: tensor.to(device) for name, tensor in tensors.items()}
    return [tensor.detach().to(device).requires_grad_(tensor.requires_grad) for tensor in tensors]


@pytest.fixture
def check(make_inputs, make_options, results, exact, assert_near):
    """check(backend, L, B, D, dtype, **options): on the GPU as in fp64 on the CPU."""

    def run(backend, length, batch, channels, dtype, **more):
        inputs, options = make_inputs(length, batch, channels, dtype), make_options(length, batch, channels)
        got = results(to_gpu(inputs), **to_gpu(options), **more, backend=backend)
        got = {name: tensor.cpu() for name, tensor in got.items()}
        assert_near(got, exact(inputs, **options, **more), TOLERANCES[dtype])

    return run


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("length", [1, 2, 17, 128, 1000])
@pytest.mark.parametrize("channels", [1, 33, 64, 136])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_values(poison, backend, check, dtype, length, channels, bidirectional):
    check(backend, length, 3, channels * (1 + bidirectional), dtype, bidirectional=bidirectional)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("batch", [4, 16])
def test_model_sizes(poison, backend, check, dtype, batch):
    check(backend, 64, batch, 3072, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("length", [2, 17, 128])
@pytest.mark.parametrize("channels", [8, 72, 136])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_many_rows(poison, backend, check, dtype, length, channels, bidirectional):
    """Two channels a lane."""
    check(backend, length, 256, channels * (1 + bidirectional), dtype, bidirectional=bidirectional)


def test_a_hundred_thousand_steps(backend, check):
    check(backend, 100_000, 1, 32, torch.float32)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("batch", [3, 256])
def test_padded_steps_keep_the_state_exactly(backend, make_inputs, dtype, batch):
    u, x, weight_c, bias, c0 = to_gpu(make_inputs(200, batch, 64, dtype))
    padding = torch.ones(200, batch, dtype=torch.bool, device="cuda")
    h, c_last = sru_recurrence(u, x, weight_c, bias, c0, padding_mask=padding, backend=backend)
    assert torch.equal(c_last, c0) and not h.any()
    grads = torch.autograd.grad(c_last, [u, x, weight_c, bias, c0], torch.ones_like(c_last))
    assert not any(grad.any() for grad in grads[:4]) and (grads[4] == 1).all()


@pytest.mark.parametrize("shape", [(0, 2, 8), (5, 0, 8), (5, 2, 0)], ids=str)
def test_empty(backend, shape, make_inputs, results):
    for name, tensor in results(to_gpu(make_inputs(*shape)), backend=backend).items():
        assert tensor.isfinite().all(), name


def test_more_than_2_to_the_31_elements(backend):
    """Offsets beyond 32 bits: the last sequence of a batch, alone and at the end."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of GPU memory")
    length, batch, channels = 1100, 64, 10_240  # u has 2.2e9 elements
    u = torch.randn(length, 1, 3, channels, device="cuda", dtype=torch.bfloat16).expand(-1, batch, -1, -1).contiguous()
    x = torch.randn(length, 1, channels, device="cuda", dtype=torch.bfloat16).expand(-1, batch, -1).contiguous()
    weight, bias = torch.randn(2, 2, channels, device="cuda")
    h, c_last = sru_recurrence(u, x, weight, bias, backend=backend)
    alone = sru_recurrence(u[:, :1], x[:, :1], weight, bias, backend=backend)
    assert torch.equal(h[:, -1:], alone[0]) and torch.equal(c_last[-1:], alone[1])


@pytest.mark.parametrize("batch", [16, 64])
def test_deterministic(backend, make_inputs, results, batch):
    inputs = to_gpu(make_inputs(200, batch, 256, torch.bfloat16))
    first = results(inputs, backend=backend)
    for _ in range(5):
        for name, tensor in results(inputs, backend=backend).items():
            assert torch.equal(tensor, first[name]), name


def test_other_streams(backend, make_inputs, results):
    inputs = to_gpu(make_inputs(50, 4, 256))
    expected = results(inputs, backend=backend)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        late = [tensor.detach().clone() for tensor in inputs]
        torch.cuda._sleep(50_000_000)  # what ran on another stream would not wait for this
        for tensor, original in zip(late, inputs):
            tensor.copy_(original.detach() + 1)
        h, c_last = sru_recurrence(*late, backend=backend)
    stream.synchronize()
    again = sru_recurrence(*[tensor.detach() + 1 for tensor in inputs], backend=backend)
    assert torch.equal(h, again[0]) and torch.equal(c_last, again[1])
    assert not torch.equal(h, expected["h"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_step_is_one_launch(backend, make_inputs, dtype):
    inputs = [tensor.detach() for tensor in to_gpu(make_inputs(1, 4, 256, dtype))]
    launched = launched_by(lambda: sru_recurrence(*inputs, backend=backend))
    assert len(launched) == 1 and "srupp_step" in launched[0], launched


@pytest.mark.parametrize(
    "batch, channels, bidirectional, kind",
    [(15, 1024, False, "16_1"), (16, 1024, False, "16_2"), (8, 2048, True, "16_2"), (24, 2012, False, "4_1")],
)
def test_both_backends_choose_alike(backend, make_inputs, results, batch, channels, bidirectional, kind):
    """By the rule of cuda_launch.py."""
    inputs = to_gpu(make_inputs(2, batch, channels, torch.bfloat16))
    launched = launched_by(lambda: results(inputs, backend=backend, bidirectional=bidirectional))
    for way in ("forward", "backward"):
        assert any(f"srupp_{way}_{kind}_bfloat16" in name for name in launched), launched


@pytest.mark.parametrize("length", [1, 30])
def test_cuda_graphs(backend, make_inputs, length):
    inputs = [tensor.detach() for tensor in to_gpu(make_inputs(length, 4, 256))]
    sru_recurrence(*inputs, backend=backend)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        h, c_last = sru_recurrence(*inputs, backend=backend)
    inputs[0].add_(1)
    graph.replay()
    expected = sru_recurrence(*inputs, backend=backend)
    assert torch.equal(h, expected[0]) and torch.equal(c_last, expected[1])


def test_torch_compile(backend, make_inputs):
    def step(*inputs):
        h, c_last = sru_recurrence(*inputs, backend=backend)
        return h.tanh(), c_last

    inputs = to_gpu(make_inputs(20, 3, 64))
    compiled = torch.compile(step, fullgraph=True)
    for got, expected in zip(compiled(*inputs), step(*inputs)):
        torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad(sum(o.sum() for o in f(*inputs)), inputs) for f in (compiled, step)]
    for got, expected in zip(*gradients):
        torch.testing.assert_close(got, expected)


def test_opcheck(backend, make_inputs):
    inputs = [tensor.detach() for tensor in to_gpu(make_inputs(5, 3, 64))]
    operator = getattr(torch.ops.fairseq_srupp, f"{backend}_forward").default
    torch.library.opcheck(operator, (*inputs, None, None, False, True))


def test_the_device_of_the_tensors_counts_not_the_current_one(backend, make_inputs, results):
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU only")
    inputs = make_inputs(20, 3, 64)
    expected = results(to_gpu(inputs, "cuda:0"), backend=backend)
    with torch.cuda.device(0):
        got = results(to_gpu(inputs, "cuda:1"), backend=backend)
        assert torch.cuda.current_device() == 0
    for name, tensor in got.items():
        assert tensor.device.index == 1 and torch.equal(tensor.cpu(), expected[name].cpu()), name


def test_the_fastest_backend_is_taken(make_inputs):
    inputs = [tensor.detach() for tensor in to_gpu(make_inputs(20, 3, 64))]
    best = next(name for name in ("cuda", "nvrtc") if backends()[name][0])
    assert torch.equal(sru_recurrence(*inputs)[0], sru_recurrence(*inputs, backend=best)[0])
