"""The compiled CPU kernels against the reference in fp64."""

import pytest
import torch

from fairseq_srupp.ops import sru_recurrence

pytestmark = pytest.mark.cpu_kernels
# Of the largest value of each tensor. Rounding inputs is no error here: the reference gets the rounded ones.
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def keep_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("length", [1, 2, 17, 128, 1000])
@pytest.mark.parametrize("channels", [1, 3, 5, 33, 130])
def test_lengths_and_widths(poison, make_inputs, make_options, results, exact, assert_near, dtype, length, channels):
    inputs, options = make_inputs(length, 3, channels, dtype), make_options(length, 3, channels)
    assert_near(results(inputs, **options, backend="cpu"), exact(inputs, **options), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("length, batch, channels", [(1, 1, 2), (2, 5, 66), (17, 3, 258), (40, 1, 2 * 1100)])
def test_both_directions(poison, make_inputs, make_options, results, exact, assert_near, dtype, length, batch, channels):
    inputs, options = make_inputs(length, batch, channels, dtype), make_options(length, batch, channels)
    options["bidirectional"] = True
    assert_near(results(inputs, **options, backend="cpu"), exact(inputs, **options), TOLERANCES[dtype])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_many_tiles(make_inputs, make_options, results, exact, assert_near, bidirectional):
    """Wider than a tile, and large enough that every thread has several."""
    inputs, options = make_inputs(20, 3, 2310), make_options(20, 3, 2310)
    options["bidirectional"] = bidirectional
    assert_near(results(inputs, **options, backend="cpu"), exact(inputs, **options), TOLERANCES[torch.float32])


def test_blocks_above_4_mib(poison, make_inputs, results, exact, assert_near):
    """Where outputs ask the system for large pages."""
    inputs = make_inputs(130, 4, 2100)
    assert_near(results(inputs, backend="cpu"), exact(inputs), TOLERANCES[torch.float32])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_same_bits_on_any_number_of_threads(make_inputs, make_options, results, dtype, bidirectional):
    inputs, options = make_inputs(70, 3, 1330, dtype), make_options(70, 3, 1330)
    runs = []
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        runs.append(results(inputs, **options, bidirectional=bidirectional, backend="cpu"))
    for run in runs[1:]:
        for name, value in run.items():
            assert torch.equal(value, runs[0][name]), name


def test_inputs_that_are_not_contiguous(make_inputs, make_options, results):
    whole = [tensor.detach() for tensor in make_inputs(12, 4, 40)]
    options = {name: mask.detach() for name, mask in make_options(12, 4, 40).items()}
    sliced = [tensor[..., ::2] for tensor in whole]
    sliced[1] = sliced[1].transpose(0, 1).contiguous().transpose(0, 1)
    sliced[2] = sliced[2].t().contiguous().t()
    assert not any(tensor.is_contiguous() for tensor in sliced)
    cut = {
        "dropout_mask": options["dropout_mask"][:, ::2],
        "padding_mask": options["padding_mask"].t().clone().t(),
    }
    copies = [tensor.contiguous().requires_grad_() for tensor in sliced]
    expected = results(copies, **{name: mask.contiguous() for name, mask in cut.items()}, backend="cpu")
    got = results([tensor.requires_grad_() for tensor in sliced], **cut, backend="cpu")
    for name, value in got.items():
        assert torch.equal(value, expected[name]), name


def test_gradient_that_is_not_contiguous(make_inputs):
    """As the sum of h has it: one number, expanded."""
    inputs = make_inputs(6, 2, 70)
    h, _ = sru_recurrence(*inputs, backend="cpu")
    summed = torch.autograd.grad(h.sum(), inputs, retain_graph=True)
    for got, expected in zip(summed, torch.autograd.grad(h, inputs, torch.ones_like(h))):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("shape", [(0, 2, 4), (3, 0, 4), (3, 2, 0), (0, 0, 0)])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_empty(make_inputs, results, backend, shape):
    inputs = make_inputs(*shape)
    got = results(inputs, bidirectional=True, backend=backend)
    assert got["h"].shape == shape
    assert got["grad_u"].shape == inputs[0].shape
    if shape[0] == 0:
        assert torch.equal(got["c_last"], inputs[4])
        assert torch.equal(got["grad_weight_c"], torch.zeros(2, shape[2]))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_stands_in_the_padding_is_nothing(make_inputs, make_options, results, backend, bidirectional):
    inputs, options = make_inputs(11, 4, 70), make_options(11, 4, 70)
    options |= {"bidirectional": bidirectional, "backend": backend}
    padding = options["padding_mask"]
    clean = results(inputs, **options)
    for rubbish in (float("nan"), float("inf"), 1e30):
        with torch.no_grad():
            for tensor in inputs[:2]:
                tensor[padding] = rubbish
        dirty = results(inputs, **options)
        for name, value in clean.items():
            assert torch.equal(dirty[name], value), name
    for name in ("h", "grad_u", "grad_x"):
        assert (clean[name][padding] == 0).all(), name
    assert padding[:, 2].all()
    assert torch.equal(clean["c_last"][2], inputs[4][2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_huge_inputs_saturate(backend, dtype):
    """Gates of +-1e4: exactly open or shut, and nothing but finite gradients."""
    gates = torch.tensor([-1e4, 1e4, -1e4, 1e4]), torch.tensor([-1e4, -1e4, 1e4, 1e4])
    u = torch.stack([torch.full((4,), 3.0), *gates]).expand(5, 1, 3, 4).to(dtype).requires_grad_()
    x = torch.full((5, 1, 4), 0.5, dtype=dtype, requires_grad=True)
    state = torch.float64 if dtype == torch.float64 else torch.float32
    weight_c = torch.ones(2, 4, dtype=state, requires_grad=True)
    c0 = torch.full((1, 4), 2.0, dtype=state)
    h, c_last = sru_recurrence(u, x, weight_c, torch.zeros_like(weight_c), c0, backend=backend)
    assert c_last.tolist() == [[3.0, 2.0, 3.0, 2.0]]  # forget gate shut: the candidate; open: the state of before
    assert h[-1, 0].tolist() == [0.5, 0.5, 3.0, 2.0]  # reset gate shut: x; open: the state
    for gradient in torch.autograd.grad(h.sum() + c_last.sum(), (u, x, weight_c)):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_whole_range_of_a_gate(dtype):
    """c_last = sigmoid(forget) where c0 = 1 and the candidate is 0: to a few units in the last place."""
    z = torch.cat([torch.linspace(-86, 86, 20001), torch.linspace(-2e4, 2e4, 40001)]).to(dtype)
    state = torch.float64 if dtype == torch.float64 else torch.float32
    u = torch.stack([torch.zeros_like(z), z, torch.zeros_like(z)])[None, None]
    zeros = torch.zeros(2, len(z), dtype=state)
    _, c_last = sru_recurrence(u, u[:, :, 0], zeros, zeros, torch.ones(1, len(z), dtype=state), backend="cpu")
    expected = torch.sigmoid(z.double())
    normal = expected >= 4 * torch.finfo(state).tiny  # below, it may be 0
    error = (c_last[0].double() - expected).abs()
    assert (error <= 4 * torch.finfo(state).eps * expected)[normal].all()
    assert (error <= 4 * torch.finfo(state).tiny)[~normal].all()
    assert (c_last[0][z > 90] == 1).all() and (c_last[0][z < -750] == 0).all()
    assert (c_last[0][z == 0] == 0.5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_gate_is_denormal(dtype):
    """Where sigmoid is, a gate is 0: processors are slow with denormals."""
    edge = torch.tensor(torch.finfo(dtype).tiny, dtype=torch.float64).log().item()
    z = torch.linspace(edge - 2, edge + 2, 100_001, dtype=torch.float64).to(dtype)
    u = torch.stack([torch.zeros_like(z), z, torch.zeros_like(z)])[None, None]
    zeros = torch.zeros(2, len(z), dtype=dtype)
    _, gate = sru_recurrence(u, u[:, :, 0], zeros, zeros, torch.ones(1, len(z), dtype=dtype), backend="cpu")
    assert (gate == 0).any() and (gate > 0).any()
    assert (gate[gate != 0] >= torch.finfo(dtype).tiny).all()


@pytest.mark.parametrize("gates", [0.0, 40.0, -40.0])
def test_infinite_gradients_are_those_of_the_reference(gates):
    """A loss scale that is too large shows as infinity, not as NaN."""
    u = torch.tensor([1.0, gates, gates]).view(1, 1, 3, 1).expand(2, 1, 3, 70).clone().requires_grad_()
    x = torch.full((2, 1, 70), 0.5, requires_grad=True)
    weight_c = torch.full((2, 70), 0.5)
    grad_h = torch.full((2, 1, 70), float("inf"))
    got, expected = (
        torch.autograd.grad(sru_recurrence(u, x, weight_c, torch.zeros(2, 70), backend=backend)[0], (u, x), grad_h)
        for backend in ("cpu", "reference")
    )
    for one, other in zip(got, expected):
        assert torch.equal(one.isnan(), other.isnan())
        assert torch.equal(one[~one.isnan()], other[~other.isnan()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_very_long_sequence_is_that_of_its_pieces(dtype):
    length, piece = 100_000, 7_000
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(length, 1, 3, 70, generator=generator).to(dtype)
    x = torch.randn(length, 1, 70, generator=generator).to(dtype)
    weight_c, bias = torch.rand(2, 70, generator=generator), torch.zeros(2, 70)
    h, c_last = sru_recurrence(u, x, weight_c, bias, backend="cpu")
    c = None
    for start in range(0, length, piece):
        part = slice(start, start + piece)
        of_part, c = sru_recurrence(u[part], x[part], weight_c, bias, c, backend="cpu")
        assert torch.equal(of_part, h[part])
    assert torch.equal(c, c_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("argument", range(5))
def test_nan_in_gives_nan_out_there_only(make_inputs, results, dtype, argument):
    inputs = make_inputs(6, 2, 70, dtype)
    expected = results(inputs, backend="cpu")
    with torch.no_grad():
        inputs[argument][..., 33] = float("nan")
    got = results(inputs, backend="cpu")
    others = torch.arange(70) != 33
    assert got["h"][..., 33].isnan().all()
    assert got["grad_u"][..., 33].isnan().any()
    for name, value in got.items():
        assert torch.equal(value[..., others], expected[name][..., others]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_of_outputs(dtype):
    """With the reset gate shut, h is x: every finite value there is must survive."""
    x = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    x = x[~x.isnan()][None, None]
    u = torch.zeros(1, 1, 3, x.shape[-1], dtype=dtype)
    bias = torch.tensor([[0.0], [-1e4]]).expand(2, x.shape[-1])
    finite = x.isfinite()
    h, _ = sru_recurrence(u, x, torch.zeros_like(bias), bias, backend="cpu")
    assert torch.equal(h[finite], x[finite])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_that_of_pytorch(dtype):
    """h from all kinds of states: subnormal, overflowing, half-way between two values, NaN of any payload."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-46, 38, 40000, dtype=torch.float64)
    spread = (torch.randn(40000, generator=generator, dtype=torch.float64) * scale).float()
    lost_bits = 16 if dtype == torch.bfloat16 else 13
    between = (spread.view(torch.int32) >> lost_bits << lost_bits | 1 << lost_bits - 1).view(torch.float32)
    nan = torch.tensor([0x7FC00000, 0x7FFFFFFF, -1], dtype=torch.int64).to(torch.int32).view(torch.float32)
    c0 = torch.cat([spread, between, nan])[None]
    width = c0.shape[1]
    zeros = torch.zeros(1, 1, 3, width, dtype=dtype)
    open_gates = torch.full((2, width), 1e4)  # c = c0, h = c
    h, _ = sru_recurrence(zeros, zeros[:, :, 0], torch.zeros(2, width), open_gates, c0, backend="cpu")
    torch.testing.assert_close(h[0], c0.to(dtype), rtol=0, atol=0, equal_nan=True)
