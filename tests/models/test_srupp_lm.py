"""The language model: streams, windows, retries, decoding."""

import copy
import math

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.models.srupp_lm import SRUppLanguageModel, SRUppLanguageModelConfig

SYMBOLS = 20


class Task:
    target_dictionary = Dictionary()


for symbol in range(SYMBOLS):
    Task.target_dictionary.add_symbol(f"w{symbol}")


class StreamTask(Task):
    reads_streams = True


def model_of(awake, task=Task, **options):
    options = {"hidden_size": 12, "attention_dim": 8, "layers": 3, "mem_len": 4, "dropout": 0.0, **options}
    torch.manual_seed(1)
    return awake(SRUppLanguageModel.build_model(SRUppLanguageModelConfig(**options), task).double()).eval()


def tokens(length=13, batch=2):
    return torch.randint(4, 4 + SYMBOLS, (batch, length), generator=torch.Generator().manual_seed(2))


def stream(model, text, segment, split="test", epoch=1, first=0):
    """The scores of a text read in segments."""
    out = []
    for i, start in enumerate(range(0, text.size(1), segment)):
        out.append(model(text[:, start : start + segment], stream=(split, epoch, first + i))[0])
    return torch.cat(out, 1)


@pytest.mark.parametrize("mem_len", [0, 1, 4, 50])
def test_evaluation_does_not_depend_on_the_segments(awake, mem_len):
    model, text = model_of(awake, mem_len=mem_len), tokens()
    scores = [stream(model, text, segment) for segment in (1, 2, 5, 13)]
    for other in scores[1:]:
        torch.testing.assert_close(other, scores[0])
    without_memory = model(text)[0]
    assert torch.allclose(without_memory, scores[0]) == (mem_len >= 12)


def test_training_sees_the_previous_segment_and_its_own_up_to_the_position(awake):
    model, text = model_of(awake, mem_len=4).train(), tokens(12)
    out = stream(model, text, 4, split="train")
    for changed in range(12):
        other = text.clone()
        other[:, changed] = (other[:, changed] - 3) % SYMBOLS + 4
        differs = (stream(copy.deepcopy(model), other, 4, split="train") != out).any(2).any(0)
        assert not differs[:changed].any() and differs[changed:].all()


def test_training_memory_is_the_previous_segment(awake):
    """With one layer and the recurrence cut off, what remains is attention: no position older than the memory."""
    model, text = model_of(awake, mem_len=4, layers=1).train(), tokens(12)
    with torch.no_grad():
        model.decoder.stack.layers[0].weight_c.zero_()
        model.decoder.stack.layers[0].bias[0].fill_(-1e4)
    out = stream(model, text, 4, split="train")
    for changed in range(12):
        other = text.clone()
        other[:, changed] = (other[:, changed] - 3) % SYMBOLS + 4
        differs = (stream(model, other, 4, split="train") != out).any(2).any(0)
        assert differs.nonzero().flatten().tolist() == list(range(changed, min(12, 4 * (changed // 4) + 8)))


def test_a_retry_of_an_update_gives_the_same_result(awake):
    model, text = model_of(awake, dropout=0.2).train(), tokens(16)

    def update(number, segments):
        model.set_num_updates(number)
        torch.manual_seed(number)
        return [model(text[:, 4 * s : 4 * s + 4], stream=("train", 1, s))[0] for s in segments]

    update(0, [0])
    first, again = update(1, [1, 2]), update(1, [1, 2])
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    update(2, [3])
    with pytest.raises(KeyError):
        update(2, [1])


def test_validation_in_the_middle_leaves_training_untouched(awake):
    results = []
    for validate in (False, True):
        model, text = model_of(awake).train(), tokens(12)
        out = stream(model, text[:, :4], 4, split="train")
        if validate:
            stream(model.eval(), tokens(9), 3, split="valid")
            model.train()
        model.set_num_updates(1)
        results.append(torch.cat((out, stream(model, text[:, 4:], 4, split="train", first=1)), 1))
    assert torch.equal(*results)


def test_a_model_that_has_read_a_stream_is_copied_with_gradients_on(awake):
    model, text = model_of(awake), tokens(12)
    expected = stream(copy.deepcopy(model), text, 4)
    stream(model, text[:, :8], 4)
    for state in model.stream_states._states["test"].values():
        assert not any(t.requires_grad for c, cache in state for t in (c, cache.keys, cache.values))
    again = copy.deepcopy(model)(text[:, 8:], stream=("test", 1, 2))[0]
    torch.testing.assert_close(again, expected[:, 8:])


def test_rows_that_end_early_change_nothing_else(awake):
    model, text = model_of(awake), tokens(12)
    ragged = text.clone()
    ragged[1, 5:] = Task.target_dictionary.pad()
    out = stream(model, ragged, 4)
    torch.testing.assert_close(out[1, :5], stream(model, text[1:, :5], 4)[0])
    torch.testing.assert_close(out[0], stream(model, text[:1], 4)[0])
    assert out.isfinite().all()


def test_padding_before_a_text_changes_nothing(awake):
    model, text = model_of(awake), tokens(8)
    padded = torch.cat((torch.full((2, 3), Task.target_dictionary.pad()), text), 1)
    torch.testing.assert_close(model(padded)[0][:, 3:], model(text)[0])


def test_the_length_of_the_memory_is_known(awake):
    assert model_of(awake, mem_len=7).max_memory() == 7


@pytest.mark.parametrize("task, mem_len", [(Task, 0), (Task, 1), (Task, 4), (Task, 50), (StreamTask, 0), (StreamTask, 4)])
def test_decoding_step_by_step_equals_the_full_pass(awake, task, mem_len):
    """On a stream that of its window, otherwise that over all positions, whatever the memory."""
    model, text = model_of(awake, task, mem_len=mem_len).float(), tokens(15, 3)
    whole = stream(model, text, 15) if task is StreamTask else model(text)[0]
    incremental = {}
    with torch.no_grad():
        out = [model(text[:, :5], incremental_state=incremental)[0][:, -1]]
        order = torch.tensor([2, 0, 0])
        model.decoder.reorder_incremental_state(incremental, order)
        text, whole = text[order], whole[order]
        for step in range(6, 16):
            out.append(model(text[:, :step], incremental_state=incremental)[0][:, -1])
    out[0] = out[0][order]
    torch.testing.assert_close(torch.stack(out, 1), whole[:, 4:], rtol=0, atol=1e-5)


@pytest.mark.parametrize("embed_dim", [None, 5])
def test_shared_embeddings(awake, embed_dim):
    own = model_of(awake, embed_dim=embed_dim)
    shared = model_of(awake, embed_dim=embed_dim, share_decoder_input_output_embed=True)
    count = lambda model: sum(p.numel() for p in model.parameters())
    symbols, dim = len(Task.target_dictionary), embed_dim or 12
    assert count(own) - count(shared) == symbols * 12 - (5 * 12 if embed_dim else 0)
    assert shared(tokens())[0].shape == (2, 13, symbols)
    assert own.decoder.embed_tokens.weight.abs().max() <= math.sqrt(3 / dim)
    assert (own.decoder.embed_tokens.weight[Task.target_dictionary.pad()] == 0).all()
    assert own.decoder.embed_tokens.weight.std().item() == pytest.approx(1 / math.sqrt(dim), rel=0.15)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"attention_heads": 3}, "multiple of heads"),
        ({"attention_layers": "2,7"}, "layer 7 does not exist"),
        ({"attention_layers": "last"}, "--attention-layers last"),
        ({"hidden_size": 0}, "--hidden-size"),
        ({"mem_len": -1}, "--mem-len"),
        ({"dropout": 1.0}, "--dropout"),
        ({"adaptive_softmax_cutoff": "5,500"}, "--adaptive-softmax-cutoff 5,500"),
        ({"adaptive_softmax_cutoff": "3,9"}, "--adaptive-softmax-cutoff 3,9"),
        ({"adaptive_softmax_cutoff": "9,5"}, "--adaptive-softmax-cutoff 9,5"),
        ({"adaptive_softmax_cutoff": "many"}, "--adaptive-softmax-cutoff many"),
        ({"adaptive_input": True}, "--adaptive-input needs"),
        ({"adaptive_input": True, "adaptive_input_cutoff": "5,500"}, "--adaptive-input-cutoff 5,500"),
        ({"adaptive_softmax_cutoff": "5", "adaptive_softmax_factor": 100}, "100 times narrower"),
        ({"adaptive_softmax_cutoff": "5", "adaptive_softmax_factor": 0}, "--adaptive-softmax-factor"),
        ({"adaptive_softmax_cutoff": "5", "adaptive_softmax_factor": float("nan")}, "--adaptive-softmax-factor"),
        ({"mem_len": "x"}, "--mem-len"),
        ({"no_attention": True, "attention_layers": "1"}, "contradict"),
        ({"tie_adaptive_weights": True}, "--tie-adaptive-weights"),
        ({"adaptive_softmax_cutoff": "5", "adaptive_softmax_dropout": 1.0}, "--adaptive-softmax-dropout"),
        ({"adaptive_softmax_cutoff": "5", "share_decoder_input_output_embed": True}, "both adaptive, or both plain"),
        (
            {"adaptive_softmax_cutoff": "5", "adaptive_input": True, "tie_adaptive_proj": True},
            "needs --tie-adaptive-weights",
        ),
        (
            {
                "adaptive_softmax_cutoff": "5",
                "adaptive_input": True,
                "adaptive_input_cutoff": "6",
                "tie_adaptive_weights": True,
            },
            "same cut-offs",
        ),
    ],
)
def test_impossible_options_are_one_line(awake, options, message):
    with pytest.raises(UserError) as error:
        model_of(awake, **options)
    assert message in str(error.value) and "\n" not in str(error.value)
