"""The encoder-decoder: what a target position sees, padding, decoding, sizes."""

import copy

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from translation_task import Task, dictionary

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.models import srupp_transformer
from fairseq_srupp.models.srupp_transformer import SRUppTransformer, SRUppTransformerConfig
from fairseq_srupp.modules import transform
from fairseq_srupp.modules.attention import attend, fused

PAD = Task.source_dictionary.pad()


def model_of(awake, task=Task, seed=1, **options):
    options = {
        "hidden_size": 12,
        "attention_dim": 8,
        "embed_dim": 6,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "dropout": 0.0,
        **options,
    }
    torch.manual_seed(seed)
    return awake(SRUppTransformer.build_model(SRUppTransformerConfig(**options), task)).eval()


def batch(seed=2):
    """Three sentences; sources padded on the left, as fairseq does."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(4, 24, (3, 7), generator=generator)
    source[1, :3], source[2, :6] = PAD, PAD
    return source, torch.randint(4, 20, (3, 9), generator=generator)


VARIANTS = [
    {},
    {"attention_heads": 2, "encoder_unidirectional": True},
    {"attention_every_n_layers": 2},
    {"attention_layers": "1", "share_decoder_input_output_embed": True},
    {"attention_heads": 2, "embed_scale": 3.0, "query_key_norm": True, "output_norm": True},
]


@pytest.mark.parametrize("options", VARIANTS)
def test_step_by_step_equals_full_with_beams_reordered_and_sentences_removed(awake, options):
    model = model_of(awake, **options)
    source, target = batch()
    with torch.no_grad():
        encoded, incremental = model.encoder(source, None), {}
        for step in range(1, 10):
            if step in (3, 5, 8):
                order = torch.tensor({3: [1, 1, 2, 0], 5: [3, 0, 1], 8: [2, 0]}[step])
                model.decoder.reorder_incremental_state_scripting(incremental, order)
                encoded = model.encoder.reorder_encoder_out(encoded, order)
                source, target = source[order], target[order]
            now, _ = model.decoder(target[:, :step], encoder_out=encoded, incremental_state=incremental)
            full, _ = model(source, None, target[:, :step])
            torch.testing.assert_close(now[:, -1], full[:, -1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_searching_in_half_precision(awake, dtype, device):
    """fairseq-generate --fp16 calls half() on the model: scores are those of single precision but for rounding."""
    model = model_of(awake)
    generator = SequenceGenerator([copy.deepcopy(model).to(device, dtype)], Task.target_dictionary, beam_size=3, max_len_b=12)
    source, _ = batch()
    sample = {"net_input": {"src_tokens": source.to(device), "src_lengths": (source != PAD).sum(1).to(device)}}
    for sentence, hypotheses in zip(source, generator.generate(None, sample)):
        for hypothesis in hypotheses:
            tokens = hypothesis["tokens"].cpu()
            with torch.no_grad():
                scores = model(sentence[None], None, torch.cat((tokens[-1:], tokens[:-1]))[None])[0][0]
            full = scores.log_softmax(-1).gather(1, tokens[:, None]).squeeze(1)
            rounding = 40 * torch.finfo(dtype).eps
            torch.testing.assert_close(hypothesis["positional_scores"].cpu().float(), full, rtol=rounding, atol=rounding)


def test_source_keys_and_values_are_computed_once(awake):
    model, calls = model_of(awake), []
    source, target = batch()
    model.decoder.stack.layers[0].transform.kv_proj.register_forward_hook(lambda m, i, o: calls.append(o.size(0)))
    with torch.no_grad():
        encoded, incremental = model.encoder(source, None), {}
        for step in range(1, 6):
            model.decoder(target[:, :step], encoder_out=encoded, incremental_state=incremental)
    assert calls == [7] + [1] * 5


@pytest.mark.parametrize("options", VARIANTS)
@pytest.mark.parametrize("beam", [1, 4])
def test_scores_of_a_search_are_those_of_the_full_pass(awake, options, beam):
    """fairseq's own generator, its sentences finishing at different times; two models in an ensemble."""
    models = [model_of(awake, seed=seed, **options).float() for seed in (1, 5)]
    for model in models:
        model.decoder.output.linear.bias.data[Task.target_dictionary.eos()] += 1  # or hardly any would end
    source, _ = batch()
    source = torch.cat((source, source.flip(0).roll(2, 1).masked_fill(source.flip(0).roll(2, 1) == PAD, 5)))
    generator = SequenceGenerator(
        [copy.deepcopy(model) for model in models], Task.target_dictionary, beam_size=beam, max_len_a=0, max_len_b=25
    )
    sample = {"net_input": {"src_tokens": source, "src_lengths": (source != PAD).sum(1)}}
    found = generator.generate(None, sample)
    lengths = set()
    for sentence, hypotheses in zip(source, found):
        assert len(hypotheses) == beam
        for hypothesis in hypotheses:
            tokens = hypothesis["tokens"]
            lengths.add(len(tokens))
            previous = torch.cat((tokens[-1:], tokens[:-1]))  # fairseq begins with the end of sentence
            with torch.no_grad():
                scores = [model(sentence[None], None, previous[None])[0][0].softmax(-1) for model in models]
            full = torch.stack(scores).mean(0).log().gather(1, tokens[:, None]).squeeze(1)
            torch.testing.assert_close(hypothesis["positional_scores"], full, rtol=0, atol=1e-5)
    assert len(lengths) > 1 or beam == 1


def test_what_else_fairseq_passes(awake):
    """Multilingual tasks give the language of the source, which no layer asks for."""
    model, (source, target) = model_of(awake), batch()
    inputs = {"src_tokens": source, "src_lengths": None, "src_lang_id": torch.zeros(3, 1)}
    assert torch.equal(model(**inputs, prev_output_tokens=target)[0], model(source, None, target)[0])
    assert torch.equal(model.encoder.forward_torchscript(inputs)["encoder_out"][0], model.encoder(source)["encoder_out"][0])


def test_encoded_sentences_are_not_copied_for_beams(awake):
    model = model_of(awake)
    encoded = model.encoder(batch()[0], None)
    beams = model.encoder.reorder_encoder_out(encoded, torch.arange(3).repeat_interleave(5))
    assert beams["encoder_out"][0] is encoded["encoder_out"][0]


def test_what_a_target_position_sees(awake):
    model = model_of(awake)
    source, target = batch()
    out, _ = model(source, None, target)
    for changed in range(9):
        other = target.clone()
        other[:, changed] = (other[:, changed] - 3) % 16 + 4
        differs = (model(source, None, other)[0] != out).any(2).any(0)
        assert not differs[:changed].any() and differs[changed:].all()
    for changed in range(7):
        other = source.clone()
        other[0, changed] = (other[0, changed] - 3) % 20 + 4
        differs = (model(other, None, target)[0] != out).any(2)
        assert differs[0].all() and not differs[1:].any()


@pytest.mark.parametrize("options", VARIANTS)
def test_padding_of_source_and_target_changes_nothing(awake, options):
    model = model_of(awake, **options)
    source, target = batch()
    target[1, 5:] = PAD
    out, _ = model(source, None, target)
    alone, _ = model(source[1:2, 3:], None, target[1:2, :5])
    torch.testing.assert_close(out[1, :5], alone[0], rtol=0, atol=1e-5)
    right = torch.cat((source[:, 6:], torch.full((3, 2), PAD)), 1)
    torch.testing.assert_close(model(right, None, target)[0], model(source[:, 6:], None, target)[0], rtol=0, atol=1e-5)
    left = torch.cat((torch.full((3, 2), PAD), target), 1)
    torch.testing.assert_close(model(source, None, left)[0][0, 2:], out[0], rtol=0, atol=1e-5)


def test_an_empty_source_is_no_nan(awake):
    model = model_of(awake).train()
    source, target = batch()
    source[0] = PAD
    out, _ = model(source, None, target)
    out.sum().backward()
    assert out.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


def test_shared_embeddings(awake):
    class Joined:
        source_dictionary = target_dictionary = Task.target_dictionary

    model = model_of(awake, Joined, share_all_embeddings=True)
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight is model.decoder.output.linear.weight
    with pytest.raises(UserError, match="joined"):
        model_of(awake, share_all_embeddings=True)


@pytest.mark.parametrize("k, millions", [(1, 20.4), (2, 19.6)])
def test_the_papers_translation_models(k, millions):
    from argparse import Namespace

    class Paper:
        source_dictionary, target_dictionary = dictionary(12_050), dictionary(9_000)

    args = Namespace(attention_every_n_layers=k)
    srupp_transformer.iwslt_de_en(args)
    with torch.device("meta"):
        model = SRUppTransformer.build_model(SRUppTransformerConfig(**vars(args)), Paper)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == millions


@pytest.mark.parametrize("options", [*VARIANTS, {"attention_norm": "pre"}, {"independent_query": True}])
def test_alignments_are_where_the_last_attention_looks(awake, monkeypatch, options):
    model = model_of(awake, **options)
    source, target = batch()
    assert model(source, None, target)[1]["attn"] == [None]
    plain = model(source, None, target)[0]
    model.decoder.make_generation_fast_(need_attn="hard")
    scores, extra = model(source, None, target)
    assert torch.equal(scores, plain)
    (alignment,) = extra["attn"]
    assert alignment.shape == (3, 9, 7)
    torch.testing.assert_close(alignment.sum(-1), torch.ones(3, 9))
    assert alignment.masked_select((source == PAD).unsqueeze(1)).eq(0).all()

    # the values of the last attention, exchanged for the positions themselves, show where it looks
    last = [layer.transform for layer in model.decoder.stack.layers if layer.attention][-1]
    seen = []

    def watched(queries, keys, values, mask, dropout):
        places = torch.eye(keys.size(2)).expand(*keys.shape[:2], -1, -1)
        seen.append(fused(queries, keys, places, mask, dropout, queries.size(-1) ** -0.5))
        return attend(queries, keys, values, mask, dropout)

    monkeypatch.setattr(transform, "attend", watched)
    model(source, None, target)
    expected = seen[-1].mean(1)[:, :, :7]
    assert last.heads == seen[-1].size(1)
    torch.testing.assert_close(alignment, expected / expected.sum(-1, keepdim=True))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:The TorchScript type system:UserWarning")
@pytest.mark.parametrize("options", [*VARIANTS, {"attention_norm": "pre", "independent_query": True}])
def test_torchscript_computes_and_finds_the_same(awake, options, tmp_path):
    """The model, and fairseq's own generator with it, compiled, saved and read again."""
    model = model_of(awake, **options)
    source, target = batch()
    target[1, 5:] = PAD
    torch.jit.script(model).save(tmp_path / "model.pt")
    scripted = torch.jit.load(tmp_path / "model.pt")
    torch.testing.assert_close(scripted(source, None, target)[0], model(source, None, target)[0], rtol=0, atol=1e-6)

    generators = [SequenceGenerator([copy.deepcopy(model)], Task.target_dictionary, beam_size=3, max_len_b=12) for _ in range(2)]
    generators[1] = torch.jit.script(generators[1])
    sample = {"net_input": {"src_tokens": source, "src_lengths": (source != PAD).sum(1)}}
    with torch.no_grad():  # fairseq's own is lost in compiling
        found, expected = generators[1](sample), generators[0](sample)
    assert len(found) == len(expected) == 3
    for sentence, other in zip(found, expected):
        for hypothesis, theirs in zip(sentence, other):
            assert torch.equal(hypothesis["tokens"], theirs["tokens"])
            torch.testing.assert_close(hypothesis["positional_scores"], theirs["positional_scores"], rtol=0, atol=1e-5)


def test_a_compiled_model_gives_gradients(awake):
    model = model_of(awake)
    source, target = batch()
    for run in (model, torch.jit.script(copy.deepcopy(model))):
        run(source, None, target)[0].square().sum().backward()
        gradients = {name: parameter.grad for name, parameter in run.named_parameters()}
        if run is model:
            expected = gradients
    assert all(gradient is not None for gradient in gradients.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-5)
