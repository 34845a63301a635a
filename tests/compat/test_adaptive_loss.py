"""fairseq's adaptive_loss, repaired: every word is scored, also by fairseq's own models."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.criterions.adaptive_loss import AdaptiveLoss
from fairseq.modules import AdaptiveSoftmax
from torch import nn

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
