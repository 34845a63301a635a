"""A decoding step of few rows in one operator: the same as the full pass in fp64, for all kinds of layers and weights."""

import copy
import itertools
import os
import pathlib
import pickle
import subprocess
import sys

import pytest
import torch
from small_stack import inputs

from fairseq_srupp.modules import SRUppStack, int8
from fairseq_srupp.modules import step as steps
from fairseq_srupp.modules.masks import AttentionMask
from fairseq_srupp.modules.state import KeyValueCache, LayerState
from fairseq_srupp.ops import step

pytestmark = pytest.mark.skipif(not step.available(), reason="the kernels are not built")

ATTENTION = [
    {"attention_norm": norm, "query_key_norm": query_key_norm, "independent_query": independent, "heads": heads}
    for norm, query_key_norm, independent, heads in itertools.product(["post", "pre", "none"], [0, 1], [0, 1], [1, 3])
]
NO_ATTENTION = [
    *({"attention_layers": layers, "attention_norm": norm} for layers in ([], [2]) for norm in ("post", "pre", "none")),
    {"projection": False},
]
D, DA = 70, 21  # whole registers and a rest
ROWS = [3, step.FEW_ROWS + 3]
needs_int8 = pytest.mark.skipif(not torch.cpu._is_vnni_supported(), reason="this processor has no instructions for int8")
ROWS_IN_INT8 = [ROWS[0], pytest.param(ROWS[1], marks=needs_int8)]


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def stack_of(awake, **options):
    torch.manual_seed(1)
    return awake(SRUppStack(D, DA, 3, **options)).eval()


def stepped(stack, x, state, **kwargs):
    """What forward_decoding returns, and whether the operator was called."""
    calls, operator = [], step.decoding_step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "decoding_step", lambda *args: calls.append(1) or operator(*args))
        h, state = stack.forward_decoding(x, state, **kwargs)
    return h, state, bool(calls)


def decoded(stack, x, state, orders=(), **kwargs):
    """h (L, B, d) step by step; all by the operator."""
    results = []
    for t in range(x.size(0)):
        if t in orders:
            state = state.reorder(torch.tensor(orders[t]))
        h, state, called = stepped(stack, x[t : t + 1], state, **kwargs)
        assert called
        results.append(h)
    return torch.cat(results)


def assert_near(result, expected, tolerance):
    assert (result.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("options", ATTENTION + NO_ATTENTION, ids=str)
@pytest.mark.parametrize("rows", ROWS)
def test_all_layers_equal_the_full_pass(poison, awake, options, rows):
    stack, x = stack_of(awake, **options), inputs(9, rows, D)
    expected = copy.deepcopy(stack).double()(x)
    assert_near(decoded(stack, x.float(), stack.begin_decoding(rows)), expected, 2e-5)


@pytest.mark.parametrize("beam", [1, 2, 3, 12])
@pytest.mark.parametrize("heads", [1, 3])
def test_rows_that_a_search_moves_with_a_padded_source(poison, awake, beam, heads):
    """Each sees its own past and its own sentence's source, whatever stands in the padding."""
    stack, source, x = stack_of(awake, heads=heads), inputs(5, 2, D, seed=3), inputs(6, 2 * beam, D)
    exact = copy.deepcopy(stack).double()
    padding = torch.zeros(5, 2, dtype=torch.bool)
    padding[3:, 1] = True
    order = [beam - 1, *range(beam - 1), *range(2 * beam - 1, beam - 1, -1)]
    state = stack.begin_decoding(2, beam, source=source.float(), source_padding_mask=padding)
    results = decoded(stack, x.float(), state, {4: order})
    rows = torch.arange(2).repeat_interleave(beam)
    past = torch.cat((x[:4, order], x[4:]))
    expected = exact(past, source=source[:, rows], source_padding_mask=padding[:, rows])
    assert_near(results[4:], expected[4:], 2e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads_gives_the_same(awake, threads):
    torch.manual_seed(0)
    stack, x = awake(SRUppStack(900, 250, 2)).eval(), inputs(3, 2, 900).float()
    many = inputs(3, 70, 900).float()
    alone, many_alone = decoded(stack, x, stack.begin_decoding(2)), decoded(stack, many, stack.begin_decoding(35, 2))
    torch.set_num_threads(threads)
    try:
        assert torch.equal(decoded(stack, x, stack.begin_decoding(2)), alone)
        assert_near(decoded(stack, many, stack.begin_decoding(35, 2)), many_alone, 1e-5)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("rows", ROWS)
def test_bf16(poison, awake, rows):
    stack, x = stack_of(awake, query_key_norm=True).bfloat16(), inputs(9, rows, D).bfloat16()
    expected = copy.deepcopy(stack).double()(x.double())
    h = decoded(stack, x, stack.begin_decoding(rows))
    assert h.dtype == torch.bfloat16
    assert_near(h, expected, 2e-2)


@pytest.mark.parametrize("options", [{"query_key_norm": True, "independent_query": True}, *NO_ATTENTION], ids=str)
@pytest.mark.parametrize("rows", ROWS_IN_INT8)
def test_int8_is_that_of_the_rounded_weights(poison, awake, options, rows):
    """The inputs of few rows have 15 bits, so nearly exactly; those of many have 8."""
    stack, x = stack_of(awake, **options), inputs(9, rows, D)
    exact = copy.deepcopy(stack).double()
    for module in exact.modules():
        if isinstance(module, torch.nn.Linear):
            scale = module.weight.abs().amax(1, keepdim=True) / 127
            module.weight.copy_((module.weight / scale).round() * scale)
    int8.quantize(stack)
    assert_near(decoded(stack, x.float(), stack.begin_decoding(rows)), exact(x), 2e-3 if rows == 3 else 3e-2)


def test_int8_of_wide_layers_does_not_overflow():
    """All whole numbers as large as they can be, of one sign."""
    stack, size = SRUppStack(6000, 8, 1, projection=False).eval(), 6000
    stack.layers[0].transform.out_proj.weight[:size] = 1e-3
    stack.layers[0].transform.out_proj.weight[size:] = 1e-5
    exact, x = copy.deepcopy(stack).double(), torch.full((1, 1, size), 5.0)
    int8.quantize(stack)
    assert_near(decoded(stack, x, stack.begin_decoding(1)), exact(x.double()), 1e-3)


@pytest.mark.parametrize("kind", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("rows", ROWS_IN_INT8)
def test_nan_and_infinity_stay_in_their_row(awake, kind, value, rows):
    stack, x = stack_of(awake), inputs(2, rows, D).float()
    if kind == "int8":
        int8.quantize(stack)
    if kind == "bf16":
        stack, x = stack.bfloat16(), x.bfloat16()
    clean = decoded(stack, x, stack.begin_decoding(rows))
    x[0, 1, 5] = value
    h = decoded(stack, x, stack.begin_decoding(rows))
    assert h[1, 1].isnan().any()
    others = [row for row in range(rows) if row != 1]
    assert torch.equal(h[:, others], clean[:, others])


def test_an_input_of_zeros_in_int8(awake):
    stack = stack_of(awake)
    expected = copy.deepcopy(stack).double()(torch.zeros(2, 1, D).double())
    int8.quantize(stack)
    assert_near(decoded(stack, torch.zeros(2, 1, D), stack.begin_decoding(1)), expected, 2e-2)


def test_when_it_is_not_taken(awake):
    """Where gradients or dropout are wanted, for other shapes and types; the results are those of the layers."""
    stack, x = stack_of(awake), inputs(1, 2, D).float()

    def taken(x, **kwargs):
        h, _, called = stepped(stack, x, stack.begin_decoding(x.size(1)), **kwargs)
        assert h.shape[:2] == x.shape[:2]
        return called

    assert taken(x)
    assert not taken(x.expand(3, -1, -1))
    assert taken(x[:, :1].expand(-1, step.FEW_ROWS + 1, -1))
    assert not taken(x[:, :0])
    assert not taken(x, inner_states=[])
    assert not taken(x, padding_mask=torch.zeros(1, 2, dtype=torch.bool))
    with torch.enable_grad():
        assert not taken(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert not taken(x)
    hook = stack.layers[2].transform.norm.register_forward_hook(lambda *args: None)
    assert not taken(x)
    hook.remove()
    assert taken(x)
    assert not stack.train() or not taken(x)
    stack.eval().double()
    assert not taken(x.double())


CHANGES = {
    "a new matrix": lambda layer: setattr(layer.transform, "out_proj", torch.nn.Linear(DA, 3 * D, bias=False)),
    "matrix in place": lambda layer: layer.transform.kv_proj.weight.mul_(1.5),
    "bias in place": lambda layer: layer.bias.add_(1),
    "alpha in place": lambda layer: layer.transform.alpha.add_(1),
    "norm loaded": lambda layer: layer.transform.norm.load_state_dict({"weight": torch.rand(DA), "bias": torch.rand(DA)}),
    # what the operator does not know
    "bias of a matrix": lambda layer: setattr(layer.transform, "in_proj", torch.nn.Linear(D, DA)),
    "module around a matrix": lambda layer: setattr(layer.transform, "in_proj", torch.nn.Sequential(layer.transform.in_proj)),
    "other norm": lambda layer: setattr(layer.transform, "norm", torch.nn.RMSNorm(DA)),
    "norm without bias": lambda layer: setattr(layer.transform, "norm", torch.nn.LayerNorm(DA, bias=False)),
    "epsilon of a norm": lambda layer: setattr(layer.transform, "norm", torch.nn.LayerNorm(DA, eps=0.1)),
    "forward of a matrix": lambda layer: setattr(layer.transform.out_proj, "forward", lambda z: z.new_ones(*z.shape[:-1], 3 * D)),
    "hook": lambda layer: layer.transform.out_proj.register_forward_hook(lambda module, inputs, u: 2 * u),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_between_two_steps_counts(awake, monkeypatch, change):
    """The next step is that of the layers as they are then."""
    stack, x = stack_of(awake), inputs(2, 2, D).float()
    _, state = stack.forward_decoding(x[:1], stack.begin_decoding(2))
    CHANGES[change](stack.layers[1])
    h, _ = stack.forward_decoding(x[1:], state)
    monkeypatch.setattr(step, "available", lambda: False)
    expected, _ = stack.forward_decoding(x[1:], state)
    torch.testing.assert_close(h, expected, rtol=0, atol=1e-5)


def test_a_state_may_go_to_another_stack_and_be_copied(awake):
    """It holds no weights."""
    stack, x = stack_of(awake), inputs(2, 2, D).float()
    other = copy.deepcopy(stack)
    other.layers[0].bias.add_(1)
    _, state = stack.forward_decoding(x[:1], stack.begin_decoding(2))
    expected = copy.deepcopy(other).forward_decoding(x[1:], copy.deepcopy(state))[0]
    assert torch.equal(other.forward_decoding(x[1:], state)[0], expected)
    assert not torch.equal(stack.forward_decoding(x[1:], state)[0], expected)
    assert pickle.loads(pickle.dumps(stack))._step is None


@pytest.mark.parametrize("options", NO_ATTENTION, ids=str)
@pytest.mark.parametrize("beam", [1, 3])
def test_layers_without_attention_after_a_padded_prompt(awake, options, beam):
    """A mask of positions is of no use to them."""
    stack, x = stack_of(awake, **options), inputs(6, 2 * beam, D).float()
    padding = torch.zeros(3, 2 * beam, dtype=torch.bool)
    padding[0, beam:] = True
    _, state = stack.forward_decoding(x[:3], stack.begin_decoding(2, beam), padding_mask=padding)
    short = decoded(stack, x[3:], state)
    alone, _ = stack.forward_cached(x[1:, beam:])
    torch.testing.assert_close(short[:, beam:], alone[2:], rtol=0, atol=1e-5)


def test_a_window_that_gets_smaller(awake):
    stack, x = stack_of(awake), inputs(6, 2, D).float()
    _, state = stack.forward_decoding(x[:5], stack.begin_decoding(2))
    h = decoded(stack, x[5:], state, window=2)
    with torch.enable_grad():
        expected, _ = stack.forward_decoding(x[5:], state, window=2)
    torch.testing.assert_close(h, expected, rtol=0, atol=1e-5)


def test_an_int8_product_can_be_traced():
    """With torch's kernel, whose inputs have 7 bits."""
    linear, x = int8.Int8Linear(torch.randn(8, 16)), torch.randn(3, 16)
    traced = torch.jit.trace(linear, x, check_trace=False)
    assert (traced(x) - linear(x)).norm() < 0.05 * linear(x).norm()


@pytest.mark.parametrize("value", [1e-35, 1e-38, 1e-44])
def test_next_to_nothing_in_int8(value):
    assert step.linear(torch.full((1, 5), value), torch.ones(2, 5, dtype=torch.int8), torch.ones(2)).abs().max() <= 6 * value


def test_the_smallest_number_of_int8():
    weight = torch.full((1, 2000), -128, dtype=torch.int8)
    assert_near(step.linear(torch.ones(1, 2000), weight, torch.ones(1)), torch.full((1, 1), -256000.0), 1e-3)


@pytest.mark.parametrize("rows", ROWS)
def test_int8_without_the_instructions_for_it(awake, monkeypatch, rows):
    """PyTorch's other kernels are taken then, where there are more than few rows."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    stack, x = stack_of(awake), inputs(1, rows, D).float()
    int8.quantize(stack)
    assert stepped(stack, x, stack.begin_decoding(rows))[2] == (rows <= step.FEW_ROWS)


def test_gradients_after_steps_without(awake):
    """A state goes from the operator to the layers and back."""
    stack, x = stack_of(awake), inputs(6, 2, D).float()
    expected, _ = stack.forward_decoding(x, stack.begin_decoding(2))
    state, results = stack.begin_decoding(2), []
    for t in range(6):
        with torch.set_grad_enabled(t % 2 == 1):
            h, state = stack.forward_decoding(x[t : t + 1], state)
        assert h.requires_grad == (t % 2 == 1)
        results.append(h.detach())
    torch.testing.assert_close(torch.cat(results), expected, rtol=0, atol=1e-5)


def arguments(stack, rows=2):
    """Of the operator, for a first step."""
    run = steps.StackStep(stack.layers)
    caches = [torch.zeros(2, rows, 1, 4, DA) for _ in stack.layers]
    return {
        "x": torch.randn(rows, D),
        "weights": run.weights,
        "states": [torch.zeros(rows, D) for _ in stack.layers],
        "caches": caches,
        "starts": [0] * 3,
        "positions": 2,
        "allowed": torch.ones(rows, 1, 1, 2, dtype=torch.bool),
        "norm": "post",
        "query_key_norm": False,
    }


def weights_with(changed):
    """The weights, of which those of the second layer are changed(weights)."""
    return lambda given: [*given[:5], *changed(given[5:10]), *given[10:]]


@pytest.mark.parametrize(
    "name, change",
    [
        ("x", lambda x: x.double()),
        ("x", lambda x: x[:, 1:]),
        ("x", lambda x: x[0]),
        ("x", lambda x: x[:, ::2]),
        ("weights", lambda weights: weights[1:]),
        ("weights", lambda weights: []),
        ("weights", weights_with(lambda own: [own[0][:, 1:].contiguous(), *own[1:]])),
        ("weights", weights_with(lambda own: [*own[:2], own[2][1:].contiguous(), *own[3:]])),
        ("weights", weights_with(lambda own: [*own[:3], own[3][3:].contiguous(), own[4]])),
        ("weights", weights_with(lambda own: [own[0].half(), *own[1:]])),
        ("weights", weights_with(lambda own: [*own[:4], own[4][1:]])),
        ("weights", weights_with(lambda own: [*own[:4], torch.cat((own[4], torch.ones(1)))])),
        ("weights", weights_with(lambda own: [*own[:4], own[4].double()])),
        ("states", lambda states: states[1:]),
        ("states", lambda states: [state[1:] for state in states]),
        ("states", lambda states: [state.double() for state in states]),
        ("caches", lambda caches: caches[1:]),
        ("caches", lambda caches: [cache[:, :, :, :1] for cache in caches]),
        ("caches", lambda caches: [cache.double() for cache in caches]),
        ("caches", lambda caches: [cache[..., 1:] for cache in caches]),
        ("caches", lambda caches: [cache[:1] for cache in caches]),
        ("caches", lambda caches: [torch.zeros(2, 3, 1, 4, DA) for _ in caches]),
        ("starts", lambda starts: [3] * 3),
        ("starts", lambda starts: [-1] * 3),
        ("starts", lambda starts: starts[1:]),
        ("positions", lambda positions: 0),
        ("positions", lambda positions: 5),
        ("allowed", lambda allowed: allowed[..., 1:]),
        ("allowed", lambda allowed: allowed.float()),
    ],
)
def test_what_does_not_fit_is_refused(awake, name, change):
    """Nothing is read or written beyond a tensor."""
    given = arguments(stack_of(awake))
    step.decoding_step(*given.values())
    given[name] = change(given[name])
    with pytest.raises(RuntimeError, match="cpu_step"):
        step.decoding_step(*given.values())


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_by_itself(poison, rows, dtype):
    x, weight, scales = torch.randn(rows, 37), torch.randn(23, 37).to(dtype), torch.rand(23)
    inputs = x if dtype == torch.float32 or rows <= step.FEW_ROWS else x.to(dtype)
    expected = inputs.double() @ weight.double().t() * scales
    assert_near(step.linear(x, weight, scales), expected, 1e-5 if inputs is x else 1e-2)


@pytest.mark.parametrize("changed", [{"x": (3, 36)}, {"x": (0, 37)}, {"x": (37,)}, {"weight": (37,)}, {"scales": (22,)}])
def test_a_product_that_does_not_fit_is_refused(changed):
    shapes = {"x": (3, 37), "weight": (23, 37), "scales": (23,), **changed}
    with pytest.raises(RuntimeError, match="cpu_step"):
        step.linear(*(torch.zeros(shape) for shape in shapes.values()))


def test_a_spent_cache_is_refused(awake):
    stack, x = stack_of(awake), inputs(1, 2, D).float()
    _, state = stack.forward_decoding(x, stack.begin_decoding(2))
    state.reorder(torch.tensor([1]))
    with pytest.raises(RuntimeError, match="spent"):
        stack.forward_decoding(x, state)


def test_what_is_not_seen_may_be_anything(awake):
    """A masked position holds NaN or infinity without a trace."""
    stack = stack_of(awake)
    run, x = steps.StackStep(stack.layers), inputs(1, 1, D).float()

    def after(value):
        positions = torch.full((1, 1, 2, DA), value)
        state = [LayerState(None, KeyValueCache().append(positions, positions)) for _ in stack.layers]
        allowed = torch.tensor([False, False, True]).view(1, 1, 1, 3)
        return run(x, state, AttentionMask(allowed), 1)[0]

    assert torch.equal(after(float("nan")), after(0.0))
    assert torch.equal(after(float("inf")), after(0.0))


@pytest.mark.parametrize("limit", ["default", "avx2"])
@pytest.mark.skipif("ATEN_CPU_CAPABILITY" in os.environ, reason="this is the run of one instruction set")
def test_every_instruction_set(limit):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(pathlib.Path(__file__))]
    command += ["-k", "layers or search or bf16 or int8 or seen"]
    done = subprocess.run(command, env=os.environ | {"ATEN_CPU_CAPABILITY": limit}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout
