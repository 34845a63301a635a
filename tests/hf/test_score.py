"""Scores of a whole text with the state carried along, losses for training, and what needs no fairseq."""

import argparse
import math
import os
import subprocess
import sys

import pytest
import torch
from exported import STREAM, TRANSLATION, checkpoint, run_export, write_dictionaries
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import eval_lm

from fairseq_srupp.cli import prepare_bytes

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
import fairseq_srupp.hf  # noqa: E402, F401

ADAPTIVE = ["--adaptive-input", "--adaptive-softmax-cutoff", "12,20", "--adaptive-softmax-factor", "2"]
ADAPTIVE += ["--adaptive-input-factor", "2", "--tie-adaptive-weights"]
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
TEXT = "".join(chr(97 + (i * i + i // 5) % 26) + " \n"[i % 7 == 0] * (i % 3 == 0) for i in range(400))


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    parser = argparse.ArgumentParser()
    prepare_bytes.add_arguments(parser)
    argv = ["--train", tmp_path / "text", "--test", tmp_path / "text", "--destdir", tmp_path / "data"]
    prepare_bytes.run(parser.parse_args([str(word) for word in argv]))
    return tmp_path / "data"


def fairseqs_bits(data, path):
    words = [data, "--task", "streaming_language_modeling", "--cpu", "--path", path, "--gen-subset", "test"]
    args = options.parse_args_and_arch(options.get_eval_lm_parser(), [str(word) for word in words])
    return float(eval_lm.main(convert_namespace_to_omegaconf(args))["loss"])


@pytest.mark.parametrize("argv", [[], ADAPTIVE, ["--no-attention"]], ids=["plain", "adaptive", "no attention"])
def test_bits_per_byte_are_those_of_fairseq_eval_lm(awake, corpus, tmp_path, argv):
    _, _, path = checkpoint(corpus, awake, [*STREAM, *argv])
    run_export(path, tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")(TEXT, return_tensors="pt").input_ids
    assert ids.size(1) == len(TEXT)
    scores, _ = model.score(ids, segment=64)
    assert -scores.mean().item() / math.log(2) == pytest.approx(fairseqs_bits(corpus, path), abs=1e-5)
    first, cache = model.score(ids[:, :101])
    second, _ = model.score(ids[:, 100:], cache)
    torch.testing.assert_close(torch.cat((first, second), 1), scores, rtol=0, atol=1e-4)
    expected = model(ids[:, :-1]).logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(scores, expected.detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("argv", [[], [*ADAPTIVE, "--tie-adaptive-proj"]], ids=["plain", "adaptive"])
def test_loss_of_labels_and_saving(awake, corpus, tmp_path, argv):
    model, _, path = checkpoint(corpus, awake, [*STREAM, *argv])
    run_export(path, tmp_path / "hf")
    exported = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").train()  # no dropout in it
    text = torch.randint(4, 20, (3, 11), generator=torch.Generator().manual_seed(1))
    text[2, 8:] = 1
    labels = text.masked_fill(text == 1, -100)
    loss = exported(text, text.ne(1).long(), labels=labels).loss
    scores = model.get_normalized_probs(model(text[:, :-1]), True).gather(-1, text[:, 1:, None]).squeeze(-1)
    kept = text[:, 1:].ne(1)
    torch.testing.assert_close(loss, -scores[kept].mean(), rtol=0, atol=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in exported.parameters())
    torch.optim.SGD(exported.parameters(), 0.1).step()
    exported.save_pretrained(tmp_path / "saved")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    torch.testing.assert_close(again.eval()(text).logits, exported.eval()(text).logits, rtol=0, atol=0)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in model.parameters())


def test_loss_of_translations(awake, tmp_path):
    write_dictionaries(tmp_path)
    model, _, path = checkpoint(tmp_path, awake, TRANSLATION)
    run_export(path, tmp_path / "hf")
    exported = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    source, target = (torch.randint(4, 26, (2, n), generator=torch.Generator().manual_seed(n)) for n in (5, 7))
    previous = torch.cat((torch.full((2, 1), 2), target[:, :-1]), 1)
    labels = target.clone()
    labels[1, 4:] = -100
    expected = torch.nn.functional.cross_entropy(model(source, None, previous)[0].transpose(1, 2), labels)
    torch.testing.assert_close(exported(source, labels=labels).loss, expected, rtol=0, atol=1e-5)


PROGRAM = """
import sys
sys.modules["fairseq"] = sys.modules["fairseq_cli"] = None  # to import them raises
import fairseq_srupp.hf
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

lm, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
inputs = tokenizer(["a b", "c"], return_tensors="pt", padding=True)
print(tokenizer.batch_decode(lm.generate(**inputs, max_new_tokens=5)))
print(lm.score(inputs["input_ids"][:1])[0].sum())
mt, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(sys.argv[2]), AutoTokenizer.from_pretrained(sys.argv[2])
print(tokenizer.batch_decode(mt.generate(**tokenizer(["w1 w2", "w3"], return_tensors="pt", padding=True))))
print(*[name for name in sys.modules if name.split(".")[0] in ("fairseq", "hydra", "omegaconf") and sys.modules[name]])
"""


def test_nothing_imports_fairseq(awake, corpus, tmp_path):
    run_export(checkpoint(corpus, awake, STREAM)[2], tmp_path / "lm")
    write_dictionaries(tmp_path)
    run_export(checkpoint(tmp_path, awake, TRANSLATION)[2], tmp_path / "mt")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "lm", tmp_path / "mt"], capture_output=True, text=True, env=ONE_THREAD
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4 and done.stdout.endswith("\n\n")


def test_nothing_else_imports_transformers():
    program = "import sys; import fairseq_srupp.modules, fairseq_srupp.models.srupp_lm, fairseq_srupp.cli.export as e; "
    program += "sys.exit('transformers' in sys.modules or 'safetensors' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env=ONE_THREAD).returncode == 0
