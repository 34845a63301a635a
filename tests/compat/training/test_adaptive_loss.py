"""fairseq's adaptive_loss, repaired: every word is scored, also by fairseq's own models."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.modules import AdaptiveSoftmax
from torch import nn

from fairseq_srupp.modules.adaptive import AdaptiveSoftmax as Ours
from fairseq_srupp.modules.adaptive import Bands, band_dims, band_embeddings, band_projections

PAD, WORDS, CUTOFF = 1, 40, 10
SECOND_OF_TAIL = CUTOFF + 1


@pytest.fixture(autouse=True)
def repaired(fairseq_cli):
    pass


class Task:
    target_dictionary = SimpleNamespace(pad=lambda: PAD)


class Decoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.adaptive_softmax = AdaptiveSoftmax(WORDS, 8, [CUTOFF], 0.0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = Decoder()

    def forward(self, features):
        return features, None

    def get_targets(self, sample, net_output):
        return sample["target"]


def loss(target, model, features, **kwargs):
    sample = {"net_input": {"features": features}, "target": target, "ntokens": int((target != PAD).sum())}
    return AdaptiveLoss(Task(), sentence_avg=False)(model, sample, **kwargs)


def test_every_word_but_the_padding_is_scored():
    torch.manual_seed(0)
    model, features = Model(), torch.randn(2, 4, 8)
    target = torch.tensor([[4, SECOND_OF_TAIL, 39, PAD], [SECOND_OF_TAIL, 3, PAD, PAD]])
    got, sample_size, logged = loss(target, model, features)
    log_probs = model.decoder.adaptive_softmax.get_log_prob(features, None)
    expected = -log_probs.gather(-1, target.unsqueeze(-1)).squeeze(-1)[target != PAD]
    torch.testing.assert_close(got, expected.sum())
    assert sample_size == logged["ntokens"] == 5
    each = loss(target, model, features, reduce=False)[0]
    torch.testing.assert_close(each[(target != PAD).view(-1)], expected)
    assert each[(target == PAD).view(-1)].eq(0).all()


def test_sum_is_fp32():
    model, features = Model().half(), torch.randn(64, 512, 8).half()
    target = torch.randint(4, WORDS, (64, 512))
    got = loss(target, model, features)[0]
    assert got.dtype == torch.float32 and got > 65504  # the largest number of fp16


def test_a_model_without_adaptive_softmax():
    model = Model()
    model.decoder.adaptive_softmax = None
    with pytest.raises(SystemExit, match="adaptive-softmax-cutoff"):
        loss(torch.tensor([[4]]), model, torch.randn(1, 1, 8))


def test_a_tail_without_targets_has_gradients_of_zero():
    """Of the plugin's softmax; weight decay and averages of the gradients then go on in every update."""
    model, features = Model(), torch.randn(2, 4, 8)
    bands = Bands(WORDS, [CUTOFF])
    dims = band_dims(bands, 8, 4)
    embeddings, projections = band_embeddings(bands, dims, 8, clusters=True), band_projections(dims, 8)
    model.decoder.adaptive_softmax = ours = Ours(bands, embeddings, projections)
    target = torch.full((2, 4), 4)
    for reduce in (True, False):
        ours.zero_grad()
        got = loss(target, model, features, reduce=reduce)[0]
        torch.testing.assert_close(got.sum(), -ours.get_log_prob(features, None)[..., 4].sum())
        got.sum().backward()
        for parameters in (ours.embeddings, ours.projections, ours.biases):
            assert parameters[1].grad.eq(0).all() and parameters[0].grad.ne(0).any()
