"""Adaptive input and softmax against the same written out word by word."""

import math

import pytest
import torch
from torch import nn

from fairseq_srupp.modules.adaptive import (
    AdaptiveInput,
    AdaptiveSoftmax,
    Bands,
    band_dims,
    band_embeddings,
    band_projections,
)

D, E, WORDS, CUTOFFS = 12, 16, 60, (10, 25)


def build(dtype=torch.float64, dropout=0.0, cutoffs=CUTOFFS, padding_idx=None):
    torch.manual_seed(0)
    bands = Bands(WORDS, cutoffs)
    dims = band_dims(bands, E, 4)
    embeddings, projections = band_embeddings(bands, dims, D, clusters=True), band_projections(dims, D)
    softmax = AdaptiveSoftmax(bands, embeddings, projections, dropout=dropout).to(dtype)
    for bias in softmax.biases:
        nn.init.normal_(bias)
    return AdaptiveInput(bands, embeddings, projections, padding_idx=padding_idx, dropout=dropout), softmax


def band_of(word, ends=(*CUTOFFS, WORDS)):
    return next(band for band, end in enumerate(ends) if word < end)


def embedding(adaptive, word):
    band = band_of(word)
    row = adaptive.embeddings[band][word - (0, *CUTOFFS)[band]]
    return adaptive.projections[band] @ row


def log_prob(softmax, feature, word):
    def log_softmax(band):
        scores = softmax.embeddings[band] @ (feature @ softmax.projections[band]) + softmax.biases[band]
        return scores - scores.exp().sum().log()

    band = band_of(word)
    if band == 0:
        return log_softmax(0)[word]
    return log_softmax(0)[CUTOFFS[0] + band - 1] + log_softmax(band)[word - (0, *CUTOFFS)[band]]


@pytest.mark.parametrize("shape", [(5, 7), (60,), (1, 1), (0, 3)])
def test_input(shape):
    adaptive, _ = build()
    words = torch.randint(WORDS, shape) if len(shape) == 2 else torch.arange(WORDS)
    result = adaptive(words)
    assert result.shape == (*shape, D)
    for got, word in zip(result.reshape(-1, D), words.reshape(-1).tolist()):
        torch.testing.assert_close(got, embedding(adaptive, word))


def test_softmax():
    _, softmax = build()
    words, features = torch.arange(WORDS).view(5, 12), torch.randn(5, 12, D, dtype=torch.float64)
    everything = softmax.get_log_prob(features, None)
    torch.testing.assert_close(everything.exp().sum(-1), torch.ones(5, 12, dtype=torch.float64))
    chosen = softmax.get_log_prob(features, words)
    assert chosen.shape == everything.shape
    scores, targets = softmax(features, words)
    loss = sum(nn.functional.cross_entropy(s, t, reduction="sum") for s, t in zip(scores, targets))
    expected = torch.stack([log_prob(softmax, f, w) for f, w in zip(features.view(-1, D), words.view(-1).tolist())])
    for result in (everything, chosen):
        torch.testing.assert_close(result.gather(-1, words.unsqueeze(-1)).view(-1), expected)
    torch.testing.assert_close(loss, -expected.sum())


def test_gradients_are_those_of_the_plain_computation():
    adaptive, softmax = build()
    words, target = torch.tensor([[3, 12, 59, 12]]), torch.tensor([[12, 2, 30, 59]])
    parameters = [*softmax.parameters()]
    plain = sum(log_prob(softmax, embedding(adaptive, w), t) for w, t in zip(words[0].tolist(), target[0].tolist()))
    expected = torch.autograd.grad(plain, parameters)
    got = torch.autograd.grad(softmax.log_probs_of(adaptive(words), target).sum(), parameters)
    for a, b in zip(got, expected):
        torch.testing.assert_close(a, b)


def test_bands_without_words():
    adaptive, softmax = build()
    words = torch.full((2, 3), 4)
    scores, targets = softmax(adaptive(words), words)
    assert [len(tail) for tail in (*scores[1:], *targets[1:])] == [0, 0, 0, 0]
    torch.testing.assert_close(softmax.log_probs_of(adaptive(words), words), softmax.get_log_prob(adaptive(words), None)[..., 4])
    adaptive(words).sum().backward()
    assert all(p.grad is not None for p in (*adaptive.embeddings, *adaptive.projections))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_tail_without_targets_has_gradients_of_zero(dtype):
    _, softmax = build(dtype, dropout=0.1)
    features, words = torch.randn(2, 3, D, dtype=dtype), torch.full((2, 3), 4)
    words[0, 0] = 12  # the first tail has one, the second none
    for loss in (
        lambda: sum(nn.functional.cross_entropy(s, t, reduction="sum") for s, t in zip(*softmax(features, words))),
        lambda: -softmax.log_probs_of(features, words).sum(),
    ):
        softmax.zero_grad()
        loss().backward()
        for parameters in (softmax.embeddings, softmax.projections, softmax.biases):
            assert parameters[2].grad.eq(0).all() and all(p.grad.ne(0).any() for p in parameters[:2])


def test_padding():
    adaptive, softmax = build(padding_idx=1)
    words = torch.tensor([[1, 5]])
    assert adaptive(words)[0, 0].eq(0).all()
    adaptive(words).sum().backward()
    assert adaptive.embeddings[0].grad[1].eq(0).all() and adaptive.embeddings[0].grad[5].ne(0).any()


def test_a_word_beyond_the_vocabulary_is_an_error():
    adaptive, _ = build()
    with pytest.raises(IndexError, match="out of range"):
        adaptive(torch.tensor([3, WORDS]))


def test_cut_offs():
    assert Bands(60, (10, 60)).ends == [10, 60]
    assert Bands(60, ()).ends == [60]
    for wrong in ((10, 70), (20, 10), (10, 10), (0, 10), (-1,)):
        with pytest.raises(ValueError, match="cut-offs"):
            Bands(60, wrong)
    with pytest.raises(ValueError, match="narrower"):
        band_dims(Bands(60, (10, 20, 30)), 8, 4)


def test_without_cut_offs_it_is_a_plain_softmax():
    adaptive, softmax = build(cutoffs=())
    features = torch.randn(2, 3, D, dtype=torch.float64)
    scores = features @ softmax.projections[0] @ softmax.embeddings[0].t() + softmax.biases[0]
    torch.testing.assert_close(softmax.get_log_prob(features, None), scores.log_softmax(-1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision(dtype, autocast):
    adaptive, softmax = build(torch.float32)
    words = torch.arange(WORDS).view(5, 12)
    expected = softmax.log_probs_of(adaptive(words), words)
    if not autocast:
        softmax.to(dtype)
    with torch.autocast("cpu", dtype, enabled=autocast):
        features = adaptive(words)
        results = [softmax.log_probs_of(features, words), softmax.get_log_prob(features, None)]
    assert features.dtype == dtype
    results[1] = results[1].gather(-1, words.unsqueeze(-1)).squeeze(-1)
    for result in results:
        assert result.dtype == torch.float32
        torch.testing.assert_close(result, expected, atol=0.05, rtol=0)


def test_dropout_is_inside():
    adaptive, softmax = build(dropout=0.5)
    words = torch.tensor([[3, 30, 50]])
    features = torch.randn(1, 3, D, dtype=torch.float64)
    assert not torch.equal(adaptive(words), adaptive(words))
    assert not torch.equal(softmax.log_probs_of(features, words), softmax.log_probs_of(features, words))
    adaptive.eval(), softmax.eval()
    assert torch.equal(adaptive(words), adaptive(words))
    assert torch.equal(softmax.log_probs_of(features, words), softmax.log_probs_of(features, words))
    # what is dropped is the band's own dimension: of one dimension all or nothing
    adaptive.train()
    for _ in range(20):
        got, whole = adaptive(torch.tensor([50])), embedding(adaptive, 50)
        assert torch.allclose(got, 0 * whole) or torch.allclose(got, 2 * whole)


def test_initial_values():
    adaptive, softmax = build(torch.float32)
    bound = math.sqrt(3 / D)
    for weight in softmax.embeddings:
        assert 0.8 * bound < weight.abs().max() <= bound
    assert [tuple(w.shape) for w in softmax.embeddings] == [(12, 16), (15, 4), (35, 1)]
    assert [tuple(w.shape) for w in softmax.projections] == [(D, 16), (D, 4), (D, 1)]
