"""--load-alignments: the attention is compared with given alignments, and learns them."""

import pytest
import torch
from fairseq.criterions.label_smoothed_cross_entropy_with_alignment import (
    LabelSmoothedCrossEntropyCriterionWithAlignment,
)
from translation_task import Task

from fairseq_srupp.models.srupp_transformer import SRUppTransformer, SRUppTransformerConfig

PAD = Task.source_dictionary.pad()


class Aligned(Task):
    class cfg:
        load_alignments = True


def model_of(awake, task=Aligned, **options):
    sizes = {"hidden_size": 12, "attention_dim": 8, "embed_dim": 6, "encoder_layers": 3, "decoder_layers": 3}
    torch.manual_seed(1)
    return awake(SRUppTransformer.build_model(SRUppTransformerConfig(**{**sizes, "dropout": 0.0, **options}), task))


def sample():
    """Two sentences, the source of the second padded on the left; pairs of alignments as fairseq counts them."""
    source = torch.tensor([[5, 6, 7, 2], [PAD, 8, 9, 2]])
    previous = torch.tensor([[2, 4, 5, 6], [2, 7, 8, PAD]])
    pairs = torch.tensor([[0, 0], [1, 1], [2, 1], [1, 5]])  # of the source, of the targets end to end
    weights = torch.tensor([1.0, 0.5, 0.5, 1.0])
    return {
        "net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1), "prev_output_tokens": previous},
        "target": torch.tensor([[4, 5, 6, 2], [7, 8, 2, PAD]]),
        "ntokens": 7,
        "alignments": pairs,
        "align_weights": weights,
    }


def criterion(weight):
    made = LabelSmoothedCrossEntropyCriterionWithAlignment.__new__(LabelSmoothedCrossEntropyCriterionWithAlignment)
    torch.nn.Module.__init__(made)
    made.sentence_avg, made.eps, made.ignore_prefix_size, made.report_accuracy = False, 0.0, 0, False
    made.padding_idx, made.alignment_lambda = PAD, weight
    return made


def attention_to_the_source(model, data, heads=None):
    """Written out: softmax over source and target, heads averaged, of the source what each has of it."""
    last = [layer for layer in model.decoder.stack.layers if layer.attention][-1].transform
    seen = []
    hook = last.register_forward_pre_hook(lambda module, inputs, kwargs: seen.append((inputs, kwargs)), with_kwargs=True)
    source, _, previous = data["net_input"].values()
    model(source, None, previous)
    hook.remove()
    (x,), kwargs = seen[-1]
    context = kwargs["context"]
    q = torch.cat((context, x @ last.in_proj.weight.t()))
    keys = (q @ last.kv_proj.weight.t())[..., : q.size(-1)]
    result = torch.zeros(len(previous), previous.size(1), source.size(1))
    for row in range(len(previous)):
        for t in range(previous.size(1)):
            each = []
            for part in range(last.heads):
                size = q.size(-1) // last.heads
                at = slice(part * size, (part + 1) * size)
                visible = [s for s in range(source.size(1)) if source[row, s] != PAD]
                positions = visible + [source.size(1) + i for i in range(t + 1)]
                scores = keys[positions, row, at] @ q[source.size(1) + t, row, at] / size**0.5
                each.append(scores.softmax(0)[: len(visible)])
            mean = torch.stack(each[:heads]).mean(0)
            result[row, t, visible] = mean / mean.sum()
    return result


@pytest.mark.parametrize("options", [{}, {"attention_heads": 2}, {"attention_layers": "2", "compile": False}])
def test_the_loss_is_that_of_the_attention_written_out(awake, options):
    model, data = model_of(awake, **options).train(), sample()
    loss, sample_size, logs = criterion(0.3)(model, data)
    attention = attention_to_the_source(model, data).flatten(0, 1)
    expected = -sum(w * attention[t, s].log() for (s, t), w in zip(data["alignments"].tolist(), data["align_weights"]))
    assert logs["alignment_loss"] == pytest.approx(expected.item(), rel=1e-4)
    assert loss.item() == pytest.approx(logs["nll_loss"] + 0.3 * expected.item(), rel=1e-4)

    loss.backward()
    with_alignment = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    criterion(0.0)(model, data)[0].backward()
    last = [i for i, layer in enumerate(model.decoder.stack.layers) if layer.attention][-1]
    keys = f"decoder.stack.layers.{last}.transform.kv_proj.weight"
    assert not torch.allclose(with_alignment[keys], dict(model.named_parameters())[keys].grad)
    assert all(gradient.isfinite().all() for gradient in with_alignment.values())


def test_alignments_teach_where_to_look(awake):
    model, data = model_of(awake).train(), sample()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss, _, logs = criterion(1.0)(model, data)
        loss.backward()
        optimizer.step()
        losses.append(logs["alignment_loss"])
    assert losses[-1] < 0.5 * losses[0]
    attention = attention_to_the_source(model, data).flatten(0, 1)
    assert attention[0].argmax() == 0 and attention[5].argmax() == 1


def test_a_source_of_padding_alone_gives_no_nan(awake):
    model, data = model_of(awake).train(), sample()
    data["net_input"]["src_tokens"][1] = PAD
    data["alignments"], data["align_weights"] = data["alignments"][:3], data["align_weights"][:3]
    criterion(1.0)(model, data)[0].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("layer, heads", [(0, None), (2, 1), (None, 1)])
def test_another_layer_or_fewer_heads_may_be_asked_for(awake, layer, heads):
    model, data = model_of(awake, attention_heads=2), sample()
    source, lengths, previous = data["net_input"].values()
    asked = model(source, lengths, previous, alignment_layer=layer, alignment_heads=heads)[1]["attn"][0]
    if layer == 0:
        model.decoder.stack.layers = model.decoder.stack.layers[:1]
    torch.testing.assert_close(asked, attention_to_the_source(model, data, heads))


def test_a_layer_that_does_not_attend_has_no_alignment(awake):
    model, data = model_of(awake, attention_layers="3"), sample()
    source, lengths, previous = data["net_input"].values()
    with pytest.raises(ValueError, match=r"layer 0 \(counted from 0\) does not attend"):
        model(source, lengths, previous, alignment_layer=0)


def test_attention_is_computed_only_where_alignments_are_loaded(awake):
    source, lengths, previous = sample()["net_input"].values()
    assert model_of(awake, task=Task)(source, lengths, previous)[1]["attn"] == [None]
