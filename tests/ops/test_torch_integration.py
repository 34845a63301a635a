"""What PyTorch expects of an operator: opcheck, compilation, autocast, meta tensors, checkpointing."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from fairseq_srupp.ops import sru_recurrence


def operator(backend: str, direction: str):
    return getattr(torch.ops.fairseq_srupp, f"{backend}_{direction}").default


@pytest.mark.parametrize("backend", ["cpu", "reference", "fallback"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:the SRU")
def test_opcheck_forward(make_inputs, make_options, backend, dtype):
    u, x, weight_c, bias, c0 = make_inputs(5, 3, 6, dtype)
    wide = (weight_c.float().detach().requires_grad_(), bias.float().detach().requires_grad_())
    options = make_options(5, 3, 6)
    masks = options["dropout_mask"].float(), options["padding_mask"]
    for parameters, state_and_masks in ((wide, (None, None, None)), (wide, (c0, *masks)), ((weight_c, bias), (c0, *masks))):
        for bidirectional in (False, True):
            arguments = (u, x, *parameters, *state_and_masks, bidirectional, True)
            torch.library.opcheck(operator(backend, "forward"), arguments)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_opcheck_without_gradients(make_inputs, backend):
    inputs = [tensor.detach() for tensor in make_inputs(5, 3, 6)]
    torch.library.opcheck(operator(backend, "forward"), (*inputs, None, None, False, False))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("given", [(True, True), (True, False), (False, True)])
def test_opcheck_backward(make_inputs, make_options, backend, given):
    u, x, weight_c, bias, c0 = (tensor.detach() for tensor in make_inputs(5, 3, 6))
    options = make_options(5, 3, 6)
    h_and_c = [torch.randn_like(x) if given[0] else None, torch.randn_like(c0) if given[1] else None]
    saved = (
        u,
        x,
        weight_c,
        bias,
        c0,
        options["dropout_mask"],
        options["padding_mask"],
        torch.randn_like(x),
        True,
    )
    torch.library.opcheck(operator(backend, "backward"), (*h_and_c, *saved))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_a_call_is_one_operator(make_inputs, backend, dtype):
    class Calls(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            called.append(function)
            return function(*arguments, **(options or {}))

    called, inputs = [], [tensor.detach() for tensor in make_inputs(1, 3, 6, dtype)]
    with Calls():
        sru_recurrence(*inputs, backend=backend)
    assert called[0] is operator(backend, "forward") and (backend == "reference" or len(called) == 1)


def test_without_saved_states_there_are_no_gradients(make_inputs):
    h, _, c = operator("cpu", "forward")(*make_inputs(2, 1, 3), None, None, False, False)
    assert c.numel() == 0
    with pytest.raises(RuntimeError, match="save_c=False"):
        h.sum().backward()


@pytest.mark.parametrize("backend", ["cpu", "reference", None])
def test_compile_without_a_graph_break(make_inputs, make_options, backend):
    def step(u, x, weight_c, bias, c0, mask, padding):
        h, c_last = sru_recurrence(u * 2, x + 1, weight_c, bias, c0, dropout_mask=mask, padding_mask=padding, backend=backend)
        return h.tanh(), c_last * 3

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (5, 8):
        inputs, masks = make_inputs(length, 3, 6), make_options(length, 3, 6).values()
        expected, got = step(*inputs, *masks), compiled(*inputs, *masks)
        torch.testing.assert_close(got, expected)
        gradients = [torch.autograd.grad(h.sum() + c_last.sum(), inputs) for h, c_last in (got, expected)]
        torch.testing.assert_close(*gradients)
    with torch.no_grad():
        torch.testing.assert_close(compiled(*inputs, *masks), expected)


def test_inductor(make_inputs):
    """The default compiler, on the op alone: the C++ that it writes for others takes a minute to compile."""
    inputs = make_inputs(5, 3, 6)
    h, c_last = torch.compile(sru_recurrence, fullgraph=True)(*inputs)
    expected = sru_recurrence(*inputs)
    torch.testing.assert_close((h, c_last), expected)
    ones = [torch.ones_like(h), torch.ones_like(c_last)]
    torch.testing.assert_close(torch.autograd.grad([h, c_last], inputs, ones), torch.autograd.grad(expected, inputs, ones))


def test_autocast_casts_x_to_the_dtype_of_u(make_inputs):
    u, x, weight_c, bias, c0 = make_inputs(5, 2, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = u.flatten(2) @ torch.eye(24)
        h, c_last = sru_recurrence(product.view_as(u), x, weight_c, bias, c0)
    assert product.dtype == h.dtype == torch.bfloat16
    assert c_last.dtype == torch.float32
    h.sum().backward()
    assert all(tensor.grad.dtype == torch.float32 for tensor in (u, x, weight_c, bias, c0))
    with pytest.raises(TypeError, match="x has dtype torch.float32, expected torch.bfloat16"):
        sru_recurrence(product.view_as(u), x, weight_c, bias, c0)


@pytest.mark.parametrize("backend", [None, "cpu", "reference"])
def test_meta_tensors(make_inputs, recwarn, backend):
    inputs = [tensor.detach().to("meta") for tensor in make_inputs(5, 2, 8, torch.bfloat16)]
    h, c_last = sru_recurrence(*inputs, backend=backend)
    assert h.is_meta and h.shape == (5, 2, 8) and h.dtype == torch.bfloat16
    assert c_last.is_meta and c_last.shape == (2, 8) and c_last.dtype == torch.float32
    assert not recwarn.list


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_activation_checkpointing(make_inputs, use_reentrant):
    inputs = make_inputs(5, 2, 8)

    def loss(h, c_last):
        return (h * torch.arange(8)).sum() + c_last.sum()

    expected = torch.autograd.grad(loss(*sru_recurrence(*inputs)), inputs)
    loss(*checkpoint(sru_recurrence, *inputs, use_reentrant=use_reentrant)).backward()
    for tensor, gradient in zip(inputs, expected):
        assert torch.equal(tensor.grad, gradient)


def test_inference_keeps_nothing(make_inputs):
    """Without gradients the states of all steps are neither stored nor computed with."""
    inputs = make_inputs(50, 2, 64)
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        h, c_last = sru_recurrence(*inputs)
    allocated = sum(event.self_cpu_memory_usage for event in profile.events())
    assert not h.requires_grad
    assert allocated == (h.numel() + c_last.numel()) * 4
