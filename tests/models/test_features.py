"""Features and inner states, by the calls that fairseq's own models answer."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.models.transformer import TransformerModel, base_architecture
from translation_task import Task

from fairseq_srupp.models.srupp_lm import SRUppLanguageModel, SRUppLanguageModelConfig
from fairseq_srupp.models.srupp_transformer import SRUppTransformer, SRUppTransformerConfig

PAD = Task.source_dictionary.pad()
LAYERS = 3


def translation_model(awake, **options):
    sizes = {"hidden_size": 12, "attention_dim": 8, "embed_dim": 6, "encoder_layers": LAYERS, "decoder_layers": LAYERS}
    torch.manual_seed(1)
    return awake(SRUppTransformer.build_model(SRUppTransformerConfig(**{**sizes, **options}), Task)).eval()


def language_model(awake, **options):
    sizes = {"hidden_size": 12, "attention_dim": 8, "embed_dim": 6, "layers": LAYERS, "mem_len": 4}
    torch.manual_seed(1)
    return awake(SRUppLanguageModel.build_model(SRUppLanguageModelConfig(**{**sizes, **options}), Task)).eval()


def batch():
    generator = torch.Generator().manual_seed(2)
    source, target = (torch.randint(4, 20, (3, n), generator=generator) for n in (7, 9))
    source[1, :3], source[2, :6], target[1, 6:] = PAD, PAD, PAD
    return source, source.ne(PAD).sum(1), target


def watched(stack):
    """What goes into the first layer of a stack and comes out of each, as the layers themselves say."""
    seen = []
    stack.layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for layer in stack.layers:
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output[0]))
    return seen


def same(states, expected):
    assert len(states) == len(expected) == LAYERS + 1
    for state, other in zip(states, expected):
        torch.testing.assert_close(state, other, rtol=0, atol=0)


def test_features_of_a_translation_model(awake):
    model, (source, lengths, target) = translation_model(awake), batch()
    scores, extra = model(source, lengths, target)
    assert "inner_states" not in extra  # or they would be kept wherever scores are
    seen = watched(model.decoder.stack)
    features, extra = model.extract_features(source, lengths, target)
    same(extra["inner_states"], seen)
    assert features.shape == (3, 9, 12) and extra["attn"] == [None]
    torch.testing.assert_close(features, extra["inner_states"][-1].transpose(0, 1))
    assert torch.equal(model.output_layer(features), scores)
    assert torch.equal(model(source, lengths, target, features_only=True)[0], features)
    encoded = model.encoder(source, lengths)
    assert torch.equal(model.decoder.extract_features(target, encoder_out=encoded)[0], features)


def test_states_of_an_encoder(awake):
    model, (source, lengths, _) = translation_model(awake), batch()
    seen = watched(model.encoder.stack)
    encoded = model.encoder(source, lengths, return_all_hiddens=True)
    same(encoded["encoder_states"], seen)
    assert torch.equal(encoded["encoder_states"][-1], encoded["encoder_out"][0])
    assert torch.equal(encoded["encoder_embedding"][0], model.encoder.embed_tokens(source))
    given = model.encoder(source, lengths, token_embeddings=model.encoder.embed_tokens(source))
    assert torch.equal(given["encoder_out"][0], encoded["encoder_out"][0])
    assert model.encoder(source, lengths)["encoder_states"] == []


def test_dropout_of_source_embeddings_draws_in_the_order_of_the_stack(awake):
    """Its masks are those of a contiguous (S, B, e), as the decoder's are."""
    model, (source, lengths, _) = translation_model(awake, dropout=0.5).train(), batch()
    encoder, seen = model.encoder, []
    encoder.stack.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    torch.manual_seed(3)
    encoder(source, lengths)
    torch.manual_seed(3)
    expected = torch.nn.functional.dropout(encoder.embed_tokens(source.t()), encoder.embed_dropout)
    assert encoder.embed_dropout > 0 and seen[0].is_contiguous() and torch.equal(seen[0], expected)


def test_shapes_and_names_are_those_of_fairseqs_transformer(awake):
    sizes = {"encoder_embed_dim": 12, "encoder_ffn_embed_dim": 8, "encoder_attention_heads": 2, "encoder_layers": LAYERS}
    options = SimpleNamespace(**sizes, **{name.replace("en", "de", 1): size for name, size in sizes.items()})
    base_architecture(options)
    options.max_source_positions = options.max_target_positions = 100
    theirs = TransformerModel.build_model(options, Task).eval()
    ours, (source, lengths, target) = translation_model(awake, embed_dim=12), batch()

    def described(model):
        encoded = model.encoder(source, lengths, return_all_hiddens=True)
        features, extra = model.decoder.extract_features(target, encoder_out=encoded)
        shapes = {name: [t.shape for t in encoded[name]] for name in encoded if name not in ours_alone}
        kinds = {name: [t.dtype for t in encoded[name]] for name in shapes}
        return features.shape, [state.shape for state in extra["inner_states"]], shapes, kinds

    ours_alone = ("source_padding", "rows", "fc_results")
    assert described(ours) == described(theirs)
    torch.testing.assert_close(ours.encoder(source)["src_lengths"], theirs.encoder(source)["src_lengths"])


@pytest.mark.parametrize("options", [{}, {"attention_every_n_layers": 2}])
def test_features_step_by_step(awake, options):
    model, (source, lengths, target) = translation_model(awake, **options), batch()
    with torch.no_grad():
        full, extra = model.extract_features(source, lengths, target)
        encoded, incremental = model.encoder(source, lengths), {}
        for step in range(6):  # what stands behind in a row is padding
            now, inner = model.decoder.extract_features(target[:, : step + 1], encoded, incremental)
            torch.testing.assert_close(now[:, 0], full[:, step], rtol=0, atol=1e-5)
            for state, whole in zip(inner["inner_states"], extra["inner_states"], strict=True):
                torch.testing.assert_close(state[0], whole[step], rtol=0, atol=1e-5)


def test_inner_states_of_beams_stand_in_the_rows_of_the_caller(awake):
    """After sentences have left a search, the cache may hold the others in another order."""
    model, (source, lengths, target) = translation_model(awake), batch()
    target = target.masked_fill(target == PAD, 5)
    order = torch.tensor([0, 0, 1, 1, 2, 2])
    with torch.no_grad():
        encoded = model.encoder.reorder_encoder_out(model.encoder(source, lengths), order)
        incremental = {}
        model.decoder(target[order][:, :2], encoded, incremental)
        left = torch.tensor([2, 3, 4, 5])  # of sentences 1 and 2
        model.decoder.reorder_incremental_state_scripting(incremental, left)
        encoded, rows = model.encoder.reorder_encoder_out(encoded, left), order[left]
        _, inner = model.decoder.extract_features(target[rows][:, :3], encoded, incremental)
        _, whole = model.extract_features(source[rows], lengths[rows], target[rows][:, :3])
    for state, other in zip(inner["inner_states"], whole["inner_states"], strict=True):
        torch.testing.assert_close(state[0], other[2], rtol=0, atol=1e-5)


@pytest.mark.parametrize("adaptive", [False, True])
def test_features_of_a_language_model(awake, adaptive):
    options = {"adaptive_softmax_cutoff": "8,12", "adaptive_softmax_factor": 2} if adaptive else {}
    model, (text, lengths, _) = language_model(awake, **options), batch()
    scores, _ = model(text, src_lengths=lengths)
    seen = watched(model.decoder.stack)
    features, extra = model.extract_features(text, src_lengths=lengths)
    same(extra["inner_states"], seen)
    assert features.shape == (3, 7, 12)
    assert torch.equal(model.output_layer(features), scores)
    assert torch.equal(model.decoder.extract_features(text)[0], features)
    log_probs = model.get_normalized_probs((scores, None), log_probs=True)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(3, 7))


@pytest.mark.parametrize("training", [False, True])
def test_features_of_a_stream(awake, training):
    model, text = language_model(awake, dropout=0.0).train(training), batch()[2][:1]
    split = "train" if training else "test"
    scores = [model(part, stream=(split, 1, i))[0] for i, part in enumerate(text[:, :8].split(4, 1))]
    for i, part in enumerate(text[:, :8].split(4, 1)):
        features, extra = model.extract_features(part, stream=(split, 1, i))
        assert torch.equal(model.output_layer(features), scores[i])
        assert [state.shape for state in extra["inner_states"]] == [(4, 1, 12)] * (LAYERS + 1)
        assert torch.equal(extra["inner_states"][-1][:, 0], features[0])
