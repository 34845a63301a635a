"""Every option of the models reaches what it is named after."""

import pytest
import torch
from fairseq.data import Dictionary

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.models.srupp_lm import SRUppLanguageModel, SRUppLanguageModelConfig
from fairseq_srupp.models.srupp_transformer import SRUppTransformer, SRUppTransformerConfig
from fairseq_srupp.modules.transform import AttentionTransform, LinearTransform, ProjectedTransform


class Task:
    source_dictionary = target_dictionary = Dictionary()


for _symbol in range(16):
    Task.target_dictionary.add_symbol(f"w{_symbol}")


def lm(**options):
    options = {"hidden_size": 12, "attention_dim": 8, "layers": 4, "mem_len": 4, **options}
    return SRUppLanguageModel.build_model(SRUppLanguageModelConfig(**options), Task)


def translation(**options):
    options = {"hidden_size": 12, "attention_dim": 8, "encoder_layers": 2, "decoder_layers": 2, **options}
    return SRUppTransformer.build_model(SRUppTransformerConfig(**options), Task)


def transforms(model):
    return [layer.transform for layer in model.decoder.stack.layers]


def test_which_layers_attend():
    kinds = lambda **options: [type(t) for t in transforms(lm(**options))]
    assert kinds() == [AttentionTransform] * 4
    assert kinds(attention_every_n_layers=2) == [ProjectedTransform, AttentionTransform] * 2
    assert kinds(attention_layers="1,4") == [AttentionTransform, ProjectedTransform, ProjectedTransform, AttentionTransform]
    assert kinds(no_attention=True) == [ProjectedTransform] * 4
    assert kinds(no_projection=True) == [LinearTransform] * 4


@pytest.mark.parametrize("build", [lm, translation])
def test_size_of_embeddings_and_features(build):
    """--embed-scale and --output-norm, in language model, encoder and decoder."""
    tokens, seen = torch.tensor([[5, 6, 7]]), {}

    def inputs_and_features(**options):
        torch.manual_seed(1)
        model = build(embed_dim=6, **options).eval()
        for name, module in (("decoder", model.decoder), ("encoder", getattr(model, "encoder", None))):
            if module is not None:
                module.stack.register_forward_pre_hook(lambda stack, given, name=name: seen.update({name: given[0]}))
        features, _ = model(tokens, features_only=True) if build is lm else model(tokens, None, tokens, features_only=True)
        return {**seen, "features": features}

    plain, scaled = inputs_and_features(), inputs_and_features(embed_scale=5.0, output_norm=True)
    for name in ("decoder", "encoder") if build is translation else ("decoder",):
        torch.testing.assert_close(scaled[name], 5 * plain[name])
    torch.testing.assert_close(scaled["features"].square().mean(-1), torch.ones(1, 3), rtol=0.01, atol=0)
    assert plain["features"].square().mean() < 0.5


@pytest.mark.parametrize("scale", [0, -1.0, float("inf"), float("nan")])
def test_scales_that_are_none(scale):
    with pytest.raises(UserError, match="--embed-scale must be above 0"):
        lm(embed_scale=scale)


def test_options_of_attention():
    assert all(t.attention_norm == "pre" for t in transforms(lm(attention_norm="pre")))
    assert all(isinstance(t.query_proj, torch.nn.Linear) for t in transforms(lm(independent_query=True)))
    assert all(isinstance(t.key_norm, torch.nn.RMSNorm) for t in transforms(translation(query_key_norm=True)))
    assert not any("key_norm" in name for name in lm().state_dict())
    assert all(t.alpha == 0 for t in transforms(lm()))
    assert all(t.alpha == 0.5 for t in transforms(lm(alpha_init=0.5)))
    assert all(t.heads == 4 for t in transforms(lm(attention_heads=4)))
    assert all(layer.checkpoint_activations for layer in lm(checkpoint_activations=True).decoder.stack.layers)
    assert not any(layer.checkpoint_activations for layer in lm().decoder.stack.layers)


@pytest.mark.parametrize("build", [lm, translation])
def test_dropouts(build):
    def rates(**options):
        model = build(**options)
        stack = model.decoder.stack
        t = stack.layers[0].transform
        return [
            t.dropout.p,
            stack.highway_dropout,
            model.decoder.output_dropout,
            t.attention_dropout,
            model.decoder.embed_dropout,
        ]

    assert rates(dropout=0.3) == [0.3] * 5
    assert rates(dropout=0.3, attention_dropout=0.1, embed_dropout=0.0) == [0.3, 0.3, 0.3, 0.1, 0.0]


@pytest.mark.parametrize("option", ["no_attention", "no_projection"])
def test_a_decoder_needs_attention(option):
    with pytest.raises(SystemExit, match="sees the source through it alone"):
        translation(**{option: True})


def test_the_encoder():
    bidirectional, forward_only = translation(), translation(encoder_unidirectional=True)
    assert all(layer.bidirectional for layer in bidirectional.encoder.stack.layers)
    assert not any(layer.bidirectional for layer in forward_only.encoder.stack.layers)
    assert not bidirectional.encoder.stack.causal and not forward_only.encoder.stack.causal
    assert not any(layer.bidirectional for layer in bidirectional.decoder.stack.layers)


def test_projections_around_the_stack_have_no_bias_and_the_output_has():
    model = lm(embed_dim=6, share_decoder_input_output_embed=True)
    assert model.decoder.stack.input_proj.bias is None and model.decoder.output.proj.bias is None
    assert (model.decoder.output.linear.bias == 0).all()


def test_initial_weights_around_the_stack():
    """Section 4: uniform with variance 1/dim; the projections Xavier."""
    model = lm(hidden_size=300, attention_dim=60)
    output = model.decoder.output.linear.weight
    assert 0.98 * 0.1 < output.abs().max() <= 0.1 == pytest.approx((3 / 300) ** 0.5)
    model = lm(hidden_size=300, attention_dim=60, embed_dim=50, share_decoder_input_output_embed=True)
    bound = (6 / 350) ** 0.5
    for projection in (model.decoder.output.proj, model.decoder.stack.input_proj):
        assert 0.98 * bound < projection.weight.abs().max() <= bound
    (plain, *_) = transforms(lm(hidden_size=300, no_projection=True))
    assert 0.98 * (6 / 1200) ** 0.5 < plain.out_proj.weight.abs().max() <= (6 / 1200) ** 0.5


def test_embeddings_that_start_from_the_range_of_the_vocabulary():
    """16 words beside fairseq's four symbols, whatever the dimension; where they are shared, too."""
    bound = (3 / 16) ** 0.5
    for options in ({}, {"embed_dim": 50}, {"share_decoder_input_output_embed": True}):
        decoder = lm(hidden_size=300, attention_dim=60, embed_init="vocabulary", **options).decoder
        for weight in (decoder.embed_tokens.weight, decoder.output.linear.weight):
            assert 0.98 * bound < weight.abs().max() <= bound
    with pytest.raises(SystemExit, match="--embed-init vocabulary is of plain embeddings"):
        lm(embed_init="vocabulary", adaptive_input=True, adaptive_input_cutoff="10")


@pytest.mark.parametrize("where", ["embed_dropout", "attention_dropout", "dropout"])
def test_dropout_acts_in_training_alone(awake, where):
    """Each kind by itself, the others at 0."""
    off = {"dropout": 0.0, "attention_dropout": 0.0, "embed_dropout": 0.0}
    tokens = torch.randint(4, 20, (2, 9), generator=torch.Generator().manual_seed(1))
    for options in (off, {**off, where: 0.5}):
        model = awake(lm(**options)).train()
        differs = not torch.equal(model(tokens)[0], model(tokens)[0])
        assert differs == (options is not off)
        model.eval()
        assert torch.equal(model(tokens)[0], model(tokens)[0])


def test_features_only(awake):
    model = awake(lm()).eval()
    tokens = torch.randint(4, 20, (2, 9), generator=torch.Generator().manual_seed(1))
    features, _ = model(tokens, features_only=True)
    assert features.shape == (2, 9, 12)
    torch.testing.assert_close(model.decoder.output_layer(features), model(tokens)[0])
