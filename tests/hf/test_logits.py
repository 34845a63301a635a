"""Exported models say what fairseq's say, for each option that makes another model."""

import pytest
import torch
from exported import STREAM, TRANSLATION, checkpoint, run_export, write_dictionaries

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
from fairseq_srupp.hf.modeling import CACHE  # noqa: E402

ADAPTIVE = ["--adaptive-input", "--adaptive-softmax-cutoff", "8,16", "--adaptive-input-factor", "2"]
ADAPTIVE += ["--adaptive-softmax-factor", "2"]
STREAMS = {
    "plain": [],
    "tied": ["--embed-dim", "6", "--share-decoder-input-output-embed"],
    "some layers": ["--attention-layers", "2,3", "--attention-heads", "2"],
    "pre norm": ["--attention-norm", "pre", "--independent-query", "--attention-every-n-layers", "3"],
    "norms": ["--attention-norm", "none", "--query-key-norm", "--output-norm", "--embed-scale", "3"],
    "no attention": ["--no-attention"],
    "no projection": ["--no-projection"],
    "no memory": ["--mem-len", "0"],
    "adaptive": [*ADAPTIVE, "--embed-dim", "8"],
    "adaptive, tied": [*ADAPTIVE, "--tie-adaptive-weights"],
    "adaptive, all tied": [*ADAPTIVE, "--tie-adaptive-weights", "--tie-adaptive-proj", "--output-norm"],
    "adaptive softmax": ["--adaptive-softmax-cutoff", "8", "--embed-dim", "8"],
    "adaptive input": ["--adaptive-input", "--adaptive-input-cutoff", "8"],
}
TRANSLATIONS = {
    "plain": [],
    "tied": ["--embed-dim", "6", "--share-decoder-input-output-embed"],
    "all tied": ["--embed-dim", "6", "--share-all-embeddings"],
    "forward only": ["--encoder-unidirectional", "--attention-heads", "2"],
    "some layers": ["--attention-every-n-layers", "2", "--attention-norm", "pre", "--independent-query"],
    "norms": ["--query-key-norm", "--output-norm", "--embed-scale", "4", "--attention-norm", "none"],
}


def tokens(rows, length, seed=2, end=26):
    return torch.randint(4, end, (rows, length), generator=torch.Generator().manual_seed(seed))


def assert_same_parameters(exported, model):
    assert sum(p.numel() for p in exported.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", STREAMS)
def test_language_models(awake, tmp_path, name):
    write_dictionaries(tmp_path)
    model, _, path = checkpoint(tmp_path, awake, [*STREAM, *STREAMS[name]])
    run_export(path, tmp_path / "hf")
    exported, text = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval(), tokens(2, 17)
    with torch.no_grad():
        expected = model.get_normalized_probs(model(text, stream=("test", 1, 0)), True)
        every = model.get_normalized_probs(model(text), True)
        torch.testing.assert_close(exported(text).logits.log_softmax(-1), expected, rtol=0, atol=1e-5)
        exported.config.mem_len = None
        torch.testing.assert_close(exported(text).logits.log_softmax(-1), every, rtol=0, atol=1e-5)
    assert_same_parameters(exported, model)


def test_language_models_of_sentences_and_of_fewer_words_than_they_read(awake, tmp_path):
    write_dictionaries(tmp_path)
    argv = ["--task", "language_modeling", *STREAM[2:], "--output-dictionary-size", "21"]
    model, _, path = checkpoint(tmp_path, awake, argv)
    run_export(path, tmp_path / "hf")
    exported, text = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval(), tokens(2, 17, end=30)
    with torch.no_grad():
        assert exported.config.mem_len is None
        torch.testing.assert_close(exported(text).logits, model(text)[0], rtol=0, atol=1e-5)
        assert exported(text).logits.shape == (2, 17, 21)
        assert exported(text, labels=text).loss.isfinite()
        assert exported.score(text)[0].isfinite().all()


@pytest.mark.parametrize("name", TRANSLATIONS)
def test_translation_models(awake, tmp_path, name):
    joined = "--share-all-embeddings" in TRANSLATIONS[name]
    write_dictionaries(tmp_path, joined)
    model, _, path = checkpoint(tmp_path, awake, [*TRANSLATION, *TRANSLATIONS[name]])
    run_export(path, tmp_path / "hf")
    exported = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    source, previous = tokens(3, 9), tokens(3, 7, 3)
    source[1, :4], previous[1, 5:] = 1, 1  # padding
    with torch.no_grad():
        expected = model(source, None, previous)[0]
        kept = previous.ne(1)
        found = exported(source, decoder_input_ids=previous).logits
        torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=1e-5)
        right = torch.where(source.eq(1), 1, source).clone()
        right[1] = torch.cat((source[1, 4:], source[1, :4]))  # padded on the other side
        found = exported(right, right.ne(1).long(), decoder_input_ids=previous).logits
        torch.testing.assert_close(found[kept], expected[kept], rtol=0, atol=1e-5)
        found, cache = [], None
        for step in previous.split(1, 1):
            output = exported(source, decoder_input_ids=step, past_key_values=cache, use_cache=True)
            found.append(output.logits)
            cache = output[CACHE]
        torch.testing.assert_close(torch.cat(found, 1)[kept], expected[kept], rtol=0, atol=1e-5)
    assert_same_parameters(exported, model)


BF16 = {"lm": STREAM, "adaptive": [*STREAM, *STREAMS["adaptive, all tied"]], "translation": TRANSLATION}


@pytest.mark.parametrize("argv", BF16.values(), ids=BF16)
def test_bf16(awake, tmp_path, argv):
    write_dictionaries(tmp_path)
    model, _, path = checkpoint(tmp_path, awake, argv)
    run_export(path, tmp_path / "hf", "--dtype", "bf16")
    auto = transformers.AutoModelForSeq2SeqLM if argv is TRANSLATION else transformers.AutoModelForCausalLM
    exported = auto.from_pretrained(tmp_path / "hf").eval()
    assert {p.dtype for p in exported.parameters()} == {torch.bfloat16}
    text = tokens(2, 9)
    with torch.no_grad():
        if argv is TRANSLATION:
            found, expected = exported(text, decoder_input_ids=text).logits, model(text, None, text)
        else:
            found, expected = exported(text).logits, model(text, stream=("test", 1, 0))
    expected = model.get_normalized_probs(expected, True)
    torch.testing.assert_close(found.float().log_softmax(-1), expected, rtol=0, atol=0.15)


@pytest.mark.parametrize("argv", BF16.values(), ids=BF16)
def test_int8_of_a_model_in_bf16(awake, tmp_path, argv):
    """What int8 leaves as it is, norms and recurrence, is then in fp32: as of a folder with the same numbers in fp32."""
    write_dictionaries(tmp_path)
    _, _, path = checkpoint(tmp_path, awake, argv, lambda model: model.bfloat16().float())
    auto, results = transformers.AutoModelForSeq2SeqLM if argv is TRANSLATION else transformers.AutoModelForCausalLM, []
    for dtype in ("fp32", "bf16"):
        run_export(path, tmp_path / dtype, "--dtype", dtype)
        exported = auto.from_pretrained(tmp_path / dtype, int8=True)
        text = {"decoder_input_ids": tokens(2, 9)} if argv is TRANSLATION else {}
        with torch.no_grad():
            results.append(exported(tokens(2, 9), **text).logits.log_softmax(-1))
        assert {p.dtype for p in exported.parameters()} <= {torch.float32}
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=1e-6)
