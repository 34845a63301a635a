"""Forward mode and the transforms of torch.func, against finite differences, loops and each other."""

import itertools

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from fairseq_srupp.ops import sru_recurrence

BACKENDS = ["cpu", "reference"]


@pytest.fixture
def call(make_inputs, make_options):
    """call(backend, **options) -> a function of u, x, weight_c, bias and c0, and values of these in fp64."""

    def make(backend, length=4, batch=3, channels=4, **options):
        masks = make_options(length, batch, channels)
        inputs = tuple(t.detach() for t in make_inputs(length, batch, channels, torch.float64))
        return lambda *tensors: sru_recurrence(*tensors, **masks, **options, backend=backend), inputs

    return make


def loss_of(function, inputs):
    """A function of u alone, whose second derivatives are not 0."""

    def loss(u):
        h, c_last = function(u, *inputs[1:])
        return (h**2).sum() + (c_last**3).sum()

    return loss


@pytest.mark.parametrize("padded, masked, bidirectional", list(itertools.product([False, True], repeat=3)))
def test_forward_mode(make_inputs, make_options, padded, masked, bidirectional):
    """gradcheck takes make_dual, with tensors that require gradients and with batches of tangents."""
    inputs, options = make_inputs(3, 2, 2, torch.float64), make_options(3, 2, 2)
    options = {name: options[name] for name, wanted in (("padding_mask", padded), ("dropout_mask", masked)) if wanted}
    function = lambda *tensors: sru_recurrence(*tensors, **options, bidirectional=bidirectional)
    checks = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
    assert torch.autograd.gradcheck(function, inputs, **checks)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tangents_of_what_requires_no_gradient(make_inputs, backend, dtype):
    inputs = [tensor.detach() for tensor in make_inputs(5, 2, 4, dtype)]
    tangents = [torch.ones_like(tensor) for tensor in inputs]
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(*pair) for pair in zip(inputs, tangents)]
        found = [forward_ad.unpack_dual(out).tangent for out in sru_recurrence(*duals, backend=backend)]
        in_torchscript = torch.ops.fairseq_srupp.recurrence(*duals, None, None, False)
        assert torch.equal(forward_ad.unpack_dual(in_torchscript[0]).tangent, found[0])
    function = lambda *tensors: sru_recurrence(*tensors, backend=backend)
    expected = jvp(function, tuple(t.double() for t in inputs), tuple(t.double() for t in tangents))[1]
    tolerance = 8 * torch.finfo(dtype).eps
    for got, wanted in zip(found, expected):
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance)
    assert [t.dtype for t in found] == [dtype, torch.float32]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_jacobians(call, backend, bidirectional):
    """By rows, through the kernels; by columns, through the reference."""
    function, inputs = call(backend, bidirectional=bidirectional)
    everything = tuple(range(5))
    by_rows, by_columns = (of(function, everything)(*inputs) for of in (jacrev, jacfwd))
    torch.testing.assert_close(by_rows, by_columns, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_second_derivatives_in_forward_mode(call, backend):
    function, inputs = call(backend)
    loss, u = loss_of(function, inputs), inputs[0]
    found = hessian(loss)(u)
    torch.testing.assert_close(found, jacrev(jacfwd(loss))(u))
    step = 1e-5
    for index in ((0, 0, 0, 1), (1, 1, 1, 2), (2, 0, 2, 3)):
        shift = torch.zeros_like(u)
        shift[index] = step
        by_differences = (grad(loss)(u + shift) - grad(loss)(u - shift)) / (2 * step)
        torch.testing.assert_close(found[index], by_differences, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_second_derivatives_are_refused(call, backend):
    function, inputs = call(backend)
    loss, u = loss_of(function, inputs), inputs[0]
    for second in (lambda: grad(lambda u: grad(loss)(u).sum())(u), lambda: jacrev(jacrev(loss))(u)):
        with pytest.raises(RuntimeError, match="sru_recurrence has no second derivatives"):
            second()


@pytest.mark.parametrize("backend", BACKENDS)
def test_reverse_mode_of_torch_func(call, backend):
    function, inputs = call(backend)
    outputs = function(*(tensor.requires_grad_() for tensor in inputs))
    grads = tuple(torch.randn_like(out) for out in outputs)
    expected = torch.autograd.grad(outputs, inputs, grads)
    found = vjp(function, *(tensor.detach() for tensor in inputs))[1](grads)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("error")  # torch's own loop warns that it is one
def test_gradients_of_each_sample(call, backend):
    function, inputs = call(backend)
    u = torch.stack([inputs[0], inputs[0] * 2, -inputs[0]], dim=2)

    def loss(weight_c, u):
        return loss_of(function, (u, inputs[1], weight_c, *inputs[3:]))(u)

    found = vmap(grad(loss, argnums=(0, 1)), in_dims=(None, 2))(inputs[2], u)
    for i in range(3):
        for together, alone in zip(found, grad(loss, argnums=(0, 1))(inputs[2], u[:, :, i])):
            assert torch.equal(together[i], alone)
    twice = vmap(vmap(loss, in_dims=(None, 0)), in_dims=(None, 0))(inputs[2], torch.stack([u, u]).movedim(3, 1))
    assert torch.equal(twice[1], vmap(loss, in_dims=(None, 2))(inputs[2], u))


@pytest.mark.parametrize("backend", BACKENDS)
def test_forward_mode_that_begins_after_the_call(call, backend):
    """The gradients of inputs are linear in those of outputs."""
    function, inputs = call(backend)
    outputs, pull = vjp(function, *inputs)
    grads, tangents = (tuple(torch.randn_like(out) for out in outputs) for _ in range(2))
    pushed = jvp(lambda *grads: pull(grads), grads, tangents)[1]
    torch.testing.assert_close(pushed, pull(tangents), rtol=1e-12, atol=1e-12)
    transposed = jacfwd(lambda grad_h: pull((grad_h, grads[1]))[0])(grads[0])
    jacobian = jacrev(lambda u: function(u, *inputs[1:])[0])(inputs[0])
    torch.testing.assert_close(transposed, jacobian.permute(3, 4, 5, 6, 0, 1, 2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_in_the_padding_has_no_derivatives(make_inputs, make_options, backend):
    inputs, options = make_inputs(5, 3, 4, torch.float64), make_options(5, 3, 4)
    padding = options["padding_mask"]
    tensors = [tensor.detach() for tensor in inputs]
    tangents = [torch.ones_like(tensor) for tensor in tensors]
    poisoned = [[tensor.clone() for tensor in each] for each in (tensors, tangents)]
    for each in poisoned:
        each[0][padding], each[1][padding] = float("nan"), float("nan")
    function = lambda *tensors: sru_recurrence(*tensors, **options, backend=backend)
    for found, expected in zip(jvp(function, *map(tuple, poisoned)), jvp(function, tuple(tensors), tuple(tangents))):
        assert all(map(torch.equal, found, expected))
    loss = lambda u, x: function(u, x, *tensors[2:])[0].pow(2).sum()
    of_poisoned, of_clean = (hessian(loss, argnums=1)(*each[:2]) for each in (poisoned[0], tensors))
    assert torch.equal(of_poisoned, of_clean)


def test_compiled(call):
    function, inputs = call(None, 2, 1, 2)
    loss, u = loss_of(function, inputs), inputs[0]
    compiled = lambda function, **options: torch.compile(function, backend="aot_eager", **options)
    for transformed, argument, whole in (
        (lambda u: jvp(loss, (u,), (u,))[1], u, True),
        (grad(loss), u, False),  # torch compiles what is before and after the call
        (vmap(loss), torch.stack([u, u * 2]), False),
    ):
        torch.testing.assert_close(compiled(transformed, fullgraph=whole)(argument), transformed(argument))
    of_loss = compiled(loss, fullgraph=True)
    of_loss(u)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(of_loss(forward_ad.make_dual(u, u))).tangent
    torch.testing.assert_close(found, jvp(loss, (u,), (u,))[1])
