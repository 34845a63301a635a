"""Files that do not fit, damaged files and wrong options end in one line, and nothing is written by halves."""

import json
import os

import pytest
import torch
from exported import STREAM, TRANSLATION, checkpoint, run_export, write_dictionaries

from fairseq_srupp.cli import export
from fairseq_srupp.compat.errors import UserError

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
import fairseq_srupp.hf  # noqa: E402, F401


@pytest.fixture
def files(awake, tmp_path):
    write_dictionaries(tmp_path)
    run_export(checkpoint(tmp_path, awake, STREAM)[2], tmp_path / "hf")
    return tmp_path


def refused(folder, auto=transformers.AutoModelForCausalLM):
    with pytest.raises(ValueError) as error:
        auto.from_pretrained(folder)
    message = str(error.value)
    assert "\n" not in message and len(message) < 500
    return message


@pytest.mark.parametrize("options", [
    {"hidden_size": 10}, {"vocab_size": 31}, {"layers": 2}, {"layers": 4}, {"layers": 10**9}, {"hidden_size": 10**12},
    {"attention_layers": "7"}, {"attention_norm": "first"}, {"attention_dim": 9, "attention_heads": 2}, {"layers": 0},
    {"hidden_size": "wide"}, {"adaptive_input": True, "adaptive_input_cutoff": "40"}, {"embed_dim": -1}, {"layers": None},
    {"share_decoder_input_output_embed": True},
], ids=str)  # fmt: skip
def test_a_config_of_another_model(files, options):
    config = json.loads((files / "hf" / "config.json").read_text())
    (files / "hf" / "config.json").write_text(json.dumps({**config, **options}))
    refused(files / "hf")


@pytest.mark.parametrize("size", [0, 5, 100, 3000, -1])
def test_a_truncated_file(files, size):
    path = files / "hf" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    assert "model.safetensors is damaged" in refused(files / "hf")


def test_no_pickle_is_read(files):
    (files / "hf" / "model.safetensors").unlink()
    torch.save({}, files / "hf" / "pytorch_model.bin")
    assert "there is no model.safetensors" in refused(files / "hf")


@pytest.mark.parametrize("content", [b"", b"{}", b'["<s>", "a"]', b"[1, 2, 3, 4, 5]", b"\xff"], ids=repr)
def test_a_vocabulary_that_is_none(files, content):
    (files / "hf" / "vocab.json").write_bytes(content)
    assert "vocab.json" in refused(files / "hf", transformers.AutoTokenizer)


@pytest.mark.parametrize("content", [None, b"", b"no model"])
def test_a_sentencepiece_model_that_is_none(files, content):
    config = json.loads((files / "hf" / "tokenizer_config.json").read_text())
    (files / "hf" / "tokenizer_config.json").write_text(json.dumps({**config, "kind": "sentencepiece"}))
    if content is not None:
        (files / "hf" / "sentencepiece.model").write_bytes(content)
    assert "entence" in refused(files / "hf", transformers.AutoTokenizer)


def fails(*argv):
    with pytest.raises(UserError) as error:
        run_export(*argv)
    return str(error.value)


def test_what_cannot_be_exported(files, awake, tmp_path):
    path = files / "checkpoint.pt"
    assert "not an empty folder" in fails(path, files / "hf")
    assert "No such file" in fails(files / "none.pt", files / "new")
    torch.save({"a": torch.zeros(3)}, files / "no.pt")
    fails(files / "no.pt", files / "new")
    (files / "half.pt").write_bytes(path.read_bytes()[:2000])
    assert "damaged" in fails(files / "half.pt", files / "new")
    (files / "other").mkdir()
    assert "dict.txt is missing" in fails(path, files / "new", "--data", files / "other")
    (files / "other" / "dict.txt").write_text("a 1\n")
    assert "another dictionary" in fails(path, files / "new", "--data", files / "other")
    (files / "other.model").write_bytes(b"no model")
    fails(path, files / "new", "--sentencepiece-model", files / "other.model")
    fails(path, files / "new", "--sentencepiece-model", files / "none.model")
    assert not (files / "new").exists()


def test_a_transformer_cannot_be_exported(awake, tmp_path):
    write_dictionaries(tmp_path)
    argv = ["--task", "language_modeling", "--arch", "transformer_lm", "--decoder-embed-dim", "8", "--decoder-layers", "1"]
    _, _, path = checkpoint(tmp_path, awake, [*argv, "--decoder-attention-heads", "1", "--decoder-ffn-embed-dim", "8"])
    assert "TransformerLanguageModel; srupp_lm and srupp_transformer can" in fails(path, tmp_path / "new")


def test_nothing_is_written_by_halves(files, monkeypatch):
    def full(folder, name, content):
        if name == "vocab.json":
            raise OSError(28, "No space left on device")
        with open(os.path.join(folder, name), "w") as file:
            json.dump(content, file)

    monkeypatch.setattr(export, "_write_json", full)
    before = sorted(os.listdir(files))
    (files / "empty").mkdir()
    assert "No space left" in fails(files / "checkpoint.pt", files / "new")
    assert "No space left" in fails(files / "checkpoint.pt", files / "empty")
    assert sorted(os.listdir(files)) == sorted([*before, "empty"])


def test_an_empty_folder_is_filled(files, awake):
    (files / "empty").mkdir()
    run_export(files / "checkpoint.pt", files / "empty")
    assert sorted(os.listdir(files / "empty")) == sorted(os.listdir(files / "hf"))


def test_options_are_those_of_fairseqs_models():
    """An option that makes another model and is not in the configuration of transformers would be lost."""
    import dataclasses

    from fairseq_srupp.models.srupp_lm import SRUppLanguageModelConfig
    from fairseq_srupp.models.srupp_transformer import SRUppTransformerConfig

    for fairseqs, own in (
        (SRUppLanguageModelConfig, fairseq_srupp.hf.SRUppLMConfig),
        (SRUppTransformerConfig, fairseq_srupp.hf.SRUppTransformerConfig),
    ):
        names = {field.name for field in dataclasses.fields(fairseqs)} - set(export._OF_RUNNING)
        defaults = {field.name: field.default for field in dataclasses.fields(fairseqs) if field.name in names}
        assert {name: getattr(own(), name) for name in names} == {
            name: getattr(value, "value", value) for name, value in defaults.items()
        }


def test_translation_needs_its_files(awake, tmp_path):
    write_dictionaries(tmp_path)
    run_export(checkpoint(tmp_path, awake, TRANSLATION)[2], tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**config, "source_vocab_size": 26}))
    assert "encoder.embed_tokens.weight" in refused(tmp_path / "hf", transformers.AutoModelForSeq2SeqLM)


def test_int8_is_neither_trained_nor_saved(files):
    model = transformers.AutoModelForCausalLM.from_pretrained(files / "hf", int8=True)
    for forbidden in (lambda: model.save_pretrained(files / "again"), model.train):
        with pytest.raises(ValueError, match="int8"):
            forbidden()
    assert not (files / "again").exists()
