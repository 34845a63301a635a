"""`generate` and `score`: what they print is what fairseq finds."""

import math
import os
import subprocess
import sys

import pytest
import torch
from exported import STREAM, TRANSLATION, checkpoint, run_export, write_dictionaries
from fairseq.sequence_generator import SequenceGenerator

from fairseq_srupp import cli
from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.data.byte_symbols import BYTE_SYMBOLS

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

LINES = ["w1 w2 w3", "", "w9", "w4 nothing w5 w6 w7", "w9 w9"]


def decided(model):
    model.encoder.embed_tokens.weight.data.mul_(3)
    model.decoder.output.linear.weight.data.mul_(5)
    model.decoder.output.linear.bias.data[2] += 1


@pytest.fixture
def translation(awake, tmp_path):
    write_dictionaries(tmp_path)
    model, task, path = checkpoint(tmp_path, awake, TRANSLATION, decided)
    (tmp_path / "lines").write_text("\n".join(LINES) + "\n")
    return model, task, path


@pytest.fixture
def language(awake, tmp_path):
    with open(tmp_path / "dict.txt", "w") as file:
        file.writelines(f"{symbol} 1\n" for symbol in BYTE_SYMBOLS)
    model, task, path = checkpoint(tmp_path, awake, STREAM)
    run_export(path, tmp_path / "hf")
    return model, task


def printed(capfdbinary, *argv):
    capfdbinary.readouterr()
    assert cli.main([str(word) for word in argv]) == 0
    return capfdbinary.readouterr().out.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("beam", [1, 5])
def test_translations(translation, tmp_path, capfdbinary, beam):
    model, task, path = translation
    generator = SequenceGenerator([model], task.target_dictionary, beam_size=beam)
    expected = []
    for line in LINES:
        ids = task.source_dictionary.encode_line(line, add_if_not_exist=False).long()[None]
        sample = {"net_input": {"src_tokens": ids, "src_lengths": torch.tensor([ids.size(1)])}}
        expected.append(task.target_dictionary.string(generator.generate([model], sample)[0][0]["tokens"]))
    options = ["--beam", beam, "--batch-size", 2]
    assert printed(capfdbinary, "generate", path, *options, tmp_path / "lines") == "\n".join(expected) + "\n"
    assert len(set(expected)) > 1


def test_scores_of_translations(translation, tmp_path, capfdbinary):
    model, task, path = translation
    (tmp_path / "pairs").write_text("w1 w2\tw5 w6 w7\nw3\t\n")
    found = [line.split("\t") for line in printed(capfdbinary, "score", path, tmp_path / "pairs").splitlines()]
    for (source, target), (total, bits) in zip([("w1 w2", "w5 w6 w7"), ("w3", "")], found):
        source = task.source_dictionary.encode_line(source, add_if_not_exist=False).long()[None]
        target = task.target_dictionary.encode_line(target, add_if_not_exist=False).long()[None]
        scores = model(source, None, torch.cat((target[:, -1:], target[:, :-1]), 1))[0].log_softmax(-1)
        expected = scores.gather(-1, target.unsqueeze(-1)).sum().item()
        assert float(total) == pytest.approx(expected, abs=1e-3)
        assert float(bits) == pytest.approx(-expected / math.log(2) / target.size(1), abs=1e-3)
    with pytest.raises(UserError, match="line 1 has no tab"):
        cli.main(["score", path, str(tmp_path / "lines")])


def test_texts_are_continued_and_scored(language, tmp_path, capfdbinary):
    model, task = language
    (tmp_path / "text").write_bytes(b"ab c\xff\n\nhello there")
    found = printed(capfdbinary, "generate", tmp_path / "hf", "--max-tokens", 9, "--batch-size", 3, tmp_path / "text")
    assert found.startswith("ab c\ufffd") and "\nhello there" in found
    again = printed(capfdbinary, "generate", tmp_path / "hf", "--max-tokens", 9, "--batch-size", 1, tmp_path / "text")
    assert again == found
    sampled = [
        printed(capfdbinary, "generate", tmp_path / "hf", "--sampling", "--top-k", 5, "--seed", seed, tmp_path / "text")
        for seed in (1, 1, 2)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    lines = printed(capfdbinary, "score", tmp_path / "hf", tmp_path / "text").splitlines()
    whole = printed(capfdbinary, "score", tmp_path / "hf", "--whole-files", tmp_path / "text").splitlines()
    assert len(lines) == 3 and len(whole) == 1 and lines[1] == "0.0000\t0.0000"
    for data, line in ((b"ab c\xff", lines[0]), (b"hello there", lines[2]), (b"ab c\xff\n\nhello there", whole[0])):
        ids = torch.tensor([[task.dictionary.index(BYTE_SYMBOLS[b]) for b in data]])
        scores = model(ids[:, :-1], stream=("typed", 1, 0))[0].log_softmax(-1)
        expected = scores.gather(-1, ids[:, 1:, None]).sum().item()
        total, bits = map(float, line.split("\t"))
        assert total == pytest.approx(expected, abs=1e-3)
        assert bits == pytest.approx(-expected / math.log(2) / (len(data) - 1), abs=1e-3)


def test_standard_input(language, tmp_path):
    command = [sys.executable, "-m", "fairseq_srupp", "score", tmp_path / "hf", "--int8"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, input="abc\ndef", capture_output=True, text=True, env=env)
    assert done.returncode == 0 and done.stderr == "" and done.stdout.count("\t") == 2


def test_mistakes_in_one_line(language, tmp_path):
    folder = tmp_path / "hf"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "gpt2"}')
    for argv, expected in (
        (["score", tmp_path], "no config.json"),
        (["score", folder, tmp_path / "none"], "none: No such file"),
        (["score", folder, "--whole-files"], "--whole-files needs files"),
        (["generate", tmp_path / "other"], "is a gpt2"),
    ):
        with pytest.raises(UserError, match=expected):
            cli.main(list(map(str, argv)))
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(UserError, match="is damaged"):
        cli.main(["generate", str(folder)])
