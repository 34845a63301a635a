"""Gradients of every input, with every combination of options, against finite differences in fp64."""

import itertools

import pytest
import torch

from fairseq_srupp.ops import sru_recurrence

OPTIONS = list(itertools.product([False, True], repeat=4))


@pytest.mark.parametrize("padded, masked, bidirectional, with_state", OPTIONS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradcheck(make_inputs, make_options, backend, padded, masked, bidirectional, with_state):
    inputs = make_inputs(4, 3, 4, torch.float64)
    options = make_options(4, 3, 4)
    keywords = {
        "padding_mask": options["padding_mask"] if padded else None,
        "dropout_mask": options["dropout_mask"] if masked else None,
        "bidirectional": bidirectional,
        "backend": backend,
    }
    inputs = inputs if with_state else inputs[:4]
    assert torch.autograd.gradcheck(lambda *tensors: sru_recurrence(*tensors, **keywords), inputs)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("output", [0, 1])
def test_one_output_only(make_inputs, backend, output):
    """The gradient of the other output is none at all, which the kernels take for zeros."""
    inputs = make_inputs(4, 2, 3, torch.float64)
    assert torch.autograd.gradcheck(lambda *tensors: sru_recurrence(*tensors, backend=backend)[output], inputs)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("wanted", range(5))
def test_one_input_only(make_inputs, backend, wanted):
    inputs = [tensor.requires_grad_(number == wanted) for number, tensor in enumerate(make_inputs(4, 2, 3, torch.float64))]
    assert torch.autograd.gradcheck(lambda *tensors: sru_recurrence(*tensors, backend=backend), inputs)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_no_second_derivatives(make_inputs, backend):
    u, *others = make_inputs(3, 2, 4)
    h, _ = sru_recurrence(u, *others, backend=backend)
    (grad_u,) = torch.autograd.grad(h.sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad_u.sum().backward()


def test_parameters_in_half_precision_get_their_own_dtype(make_inputs):
    for dtype in (torch.bfloat16, torch.float32):
        u, x, weight_c, bias, c0 = make_inputs(3, 2, 4, torch.bfloat16)
        weight_c, bias = (tensor.detach().to(dtype).requires_grad_() for tensor in (weight_c, bias))
        sru_recurrence(u, x, weight_c, bias, c0, backend="cpu")[0].sum().backward()
        assert weight_c.grad.dtype == bias.grad.dtype == dtype
        assert u.grad.dtype == x.grad.dtype == torch.bfloat16
        assert c0.grad.dtype == torch.float32
