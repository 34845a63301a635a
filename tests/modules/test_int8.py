"""Products and embeddings in int8 are those of the rounded weights and inputs; what of a model is in int8."""

import copy

import pytest
import torch
from torch import nn

from fairseq_srupp.modules import AdaptiveInput, AdaptiveSoftmax, int8
from fairseq_srupp.modules.adaptive import Bands, band_dims, band_embeddings, band_projections


def rounded(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    return (weight / scale).round() * scale


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (40, 33)])
@pytest.mark.parametrize("batch", [(1,), (5,), (2, 3), (40,), (5, 8)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_that_of_the_rounded_numbers(shape, batch, biased):
    torch.manual_seed(0)
    weight, bias, x = torch.randn(*shape), torch.randn(shape[0]), torch.randn(*batch, shape[1])
    y = int8.Int8Linear(weight, bias if biased else None)(x)
    expected = x.double() @ rounded(weight).double().t() + (bias.double() if biased else 0)
    # An input is off by half a step of 1/127 of their range (with 0), its row of W says by how much that counts.
    step = (x.max().clamp_min(0) - x.min().clamp_max(0)).double() / 127
    assert ((y - expected).abs() <= 0.51 * step * rounded(weight).abs().sum(1).double() + 1e-5).all()


def test_a_product_of_nothing_and_of_rows_of_zeros():
    linear = int8.Int8Linear(torch.zeros(4, 6), torch.ones(4))
    assert linear(torch.empty(0, 6)).shape == (0, 4)
    assert torch.equal(linear(torch.randn(2, 6)), torch.ones(2, 4))


def test_an_embedding_is_a_row_of_the_rounded_table():
    table, words = torch.randn(50, 7), torch.tensor([[3, 0], [49, 3]])
    table[0] = 0
    torch.testing.assert_close(int8.Int8Embedding(table)(words), rounded(table).nan_to_num()[words])


@pytest.mark.parametrize("tied", [False, True])
def test_adaptive_input_and_softmax(tied):
    torch.manual_seed(0)
    bands = Bands(60, [10, 30])
    dims = band_dims(bands, 32, 2)
    embeddings, projections = band_embeddings(bands, dims, 32, clusters=True), band_projections(dims, 32)
    softmax = AdaptiveSoftmax(bands, embeddings, projections)
    for bias in softmax.biases:
        nn.init.normal_(bias)
    own = (embeddings, projections) if tied else (band_embeddings(bands, dims, 32), band_projections(dims, 32))
    model = nn.Module()
    model.input, model.output = AdaptiveInput(bands, *own, padding_idx=1), softmax
    exact, words = copy.deepcopy(model), torch.arange(60).view(3, 20)
    int8.quantize(model)
    features = exact.input(words)
    assert (model.input(words) - features).norm() < 0.03 * features.norm()
    expected = exact.output.get_log_prob(3 * features, None)
    found = model.output.get_log_prob(3 * features, None)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(3, 20))
    assert (found - expected).abs().mean() < 0.03
    torch.testing.assert_close(
        model.output.log_probs_of(3 * features, words), found.gather(-1, words.unsqueeze(-1)).squeeze(-1), rtol=0, atol=0.1
    )


def test_what_is_shared_is_so_in_int8():
    model = nn.Module()
    model.one = model.two = nn.Linear(4, 3)
    model.norm = nn.LayerNorm(3)
    int8.quantize(model)
    assert model.one is model.two and isinstance(model.one, int8.Int8Linear) and isinstance(model.norm, nn.LayerNorm)


def test_only_on_a_cpu():
    with torch.device("meta"):
        model = nn.Linear(4, 3)
    with pytest.raises(ValueError, match="int8 is for CPUs: the model is on meta"):
        int8.quantize(nn.Sequential(model))
