"""Attention and layers under forward mode and the transforms of torch.func."""

import pytest
import torch
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vmap

from fairseq_srupp.modules import SRUppLayer
from fairseq_srupp.modules.attention import AttentionMask, attend, products


def heads(length=5, seen=7, size=4):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 2, length, size), (2, 2, seen, size), (2, 2, seen, size))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes)


@pytest.mark.parametrize("length", [5, 40])  # few queries, which are torch's kernel's on a CPU, and many
@pytest.mark.parametrize("mask", [None, AttentionMask(causal=True)])
def test_attention(length, mask):
    queries, keys, values = heads(length, length + 2)
    function = lambda *tensors: attend(*tensors, mask)
    result, pushed = jvp(function, (queries, keys, values), (queries, keys, values))
    torch.testing.assert_close(result, function(queries, keys, values))
    step = 1e-6
    moved = [function(*(t * (1 + by) for t in (queries, keys, values))) for by in (step, -step)]
    torch.testing.assert_close(pushed, (moved[0] - moved[1]) / (2 * step), rtol=1e-6, atol=1e-8)
    loss = lambda queries: function(queries, keys, values).pow(2).sum()
    needing = queries.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(needing), needing)
    torch.testing.assert_close(grad(loss)(queries), expected)
    torch.testing.assert_close(vmap(grad(loss))(torch.stack([queries, -queries]))[0], expected)


def test_products_have_no_second_derivatives():
    """Not even where others reach the same tensor, so that a part would be there."""
    queries, keys, values = (tensor.requires_grad_() for tensor in heads())
    attended = products(queries, keys, values, None, 0.0, 0.5)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(attended.pow(2).sum() + queries.pow(3).sum(), queries, create_graph=True)


def test_a_layer(awake):
    torch.manual_seed(0)
    layer = awake(SRUppLayer(6, 4).double()).eval()
    parameters = {name: weight.detach() for name, weight in layer.named_parameters()}
    x = torch.randn(3, 5, 2, 6, dtype=torch.double)

    def loss(parameters, x):
        return functional_call(layer, parameters, (x,))[0].pow(2).sum()

    of_each = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i in range(3):
        weights = list(layer.parameters())
        for name, expected in zip(parameters, torch.autograd.grad(loss(dict(layer.named_parameters()), x[i]), weights)):
            torch.testing.assert_close(of_each[name][i], expected, msg=name)
    by_columns, by_rows = (of(lambda x: functional_call(layer, parameters, (x,))[0])(x[0]) for of in (jacfwd, jacrev))
    torch.testing.assert_close(by_columns, by_rows)
