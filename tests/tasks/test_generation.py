"""Texts continued and scored: what the streaming task makes of prompts."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import FairseqIncrementalDecoder, FairseqLanguageModel
from fairseq_cli import interactive
from streams import TASK, make_task

from fairseq_srupp.compat.inputs import known_mistakes
from fairseq_srupp.models.srupp_lm import SRUppLanguageModel, SRUppLanguageModelConfig


class Successor(FairseqIncrementalDecoder):
    """Predicts the dictionary's next symbol after each but eos; knows nothing of what came before it."""

    def forward(self, prev_output_tokens, encoder_out=None, incremental_state=None, src_lengths=None):
        tokens = prev_output_tokens[:, -1:] if incremental_state is not None else prev_output_tokens
        scores = torch.nn.functional.one_hot((tokens + 1) % len(self.dictionary), len(self.dictionary))
        return 9.0 * scores.float(), None


@pytest.fixture
def alphabet(tmp_path):
    """A task whose dictionary is the lower-case letters in order, and a model that spells them."""
    (tmp_path / "dict.txt").write_text("".join(f"{chr(c)} 1\n" for c in range(97, 123)))
    task = make_task(tmp_path)
    return task, FairseqLanguageModel(Successor(task.dictionary))


def infer(alphabet, lines, **generation):
    task, model = alphabet
    tokens, lengths = task.get_interactive_tokens_and_lengths([" ".join(line) for line in lines], lambda line: line)
    dataset = task.build_dataset_for_inference(tokens, lengths)
    generator = task.build_generator([model.eval()], argparse.Namespace(**generation))
    found = {}
    for batch in task.get_batch_iterator(dataset, max_sentences=8).next_epoch_itr(shuffle=False):
        for i, hypotheses in zip(batch["id"].tolist(), task.inference_step(generator, [model], batch)):
            found[i] = hypotheses[0]
    return [found[i] for i in range(len(lines))]


def spelled(task, hypotheses):
    return [task.dictionary.string(hypothesis["tokens"], separator="") for hypothesis in hypotheses]


@pytest.mark.parametrize("beam", [1, 3])
def test_prompts_are_continued_from_their_first_token(alphabet, beam):
    # Generation from an end of sentence would begin with anything, and with the prompt's second token if it began
    # there: the letters say which one came first.
    found = infer(alphabet, ["c", "cdx", "mn"], beam=beam, max_len_b=5)
    assert spelled(alphabet[0], found) == ["cdefgh", "cdxyz", "mnopqr"]  # </s> follows z
    for hypothesis in found:
        assert hypothesis["positional_scores"][0] == 0
        assert len(hypothesis["positional_scores"]) == len(hypothesis["tokens"])


def test_prompts_of_a_batch_do_not_mix(alphabet, awake):
    task, _ = alphabet
    torch.manual_seed(1)
    config = SRUppLanguageModelConfig(hidden_size=12, attention_dim=8, layers=2, mem_len=8, dropout=0.0)
    model = awake(SRUppLanguageModel.build_model(config, task))
    prompts = ["c", "xyz", "mnopq"]
    together = infer((task, model), prompts, beam=3, max_len_b=6)
    for prompt, found in zip(prompts, together):
        (alone,) = infer((task, model), [prompt], beam=3, max_len_b=6)
        assert torch.equal(found["tokens"], alone["tokens"])
        torch.testing.assert_close(found["positional_scores"], alone["positional_scores"], rtol=0, atol=1e-5)


def test_from_pretrained_in_a_new_process(corpus, trained):
    program = f"""
from fairseq_srupp.models.srupp_lm import SRUppLanguageModel
model = SRUppLanguageModel.from_pretrained({str(trained)!r}, "checkpoint_last.pt", {corpus!r}, bpe="raw_bytes")
print("[" + model.sample(["the sea"], beam=2, max_len_b=12)[0] + "]")
"""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, cwd=trained)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("[the sea")


def test_an_empty_prompt_is_an_end_of_sentence_or_the_newline_of_byte_text(alphabet, tmp_path):
    task, _ = alphabet
    sources = []
    for line in ("", "<0x0A> 9\n"):
        with open(tmp_path / "dict.txt", "a") as f:
            f.write(line)
        task = make_task(tmp_path)
        dataset = task.build_dataset_for_inference([torch.tensor([task.dictionary.eos()])], [1])
        sources.append(dataset.collater([dataset[0]])["net_input"]["src_tokens"].tolist())
    assert sources == [[[task.dictionary.eos()]], [[task.dictionary.index("<0x0A>")]]]


def test_a_text_is_scored_from_its_second_token_on(alphabet):
    (found,) = infer(alphabet, ["cdx"], score_reference=True)
    assert spelled(alphabet[0], [found]) == ["dx"]
    right, wrong = found["positional_scores"].tolist()
    assert right > -0.01 and wrong < -8


def test_a_text_is_scored_as_a_stream_of_its_own(alphabet, awake):
    """Each position sees --mem-len positions, as in evaluation, and as where the text itself was generated."""
    task, _ = alphabet
    torch.manual_seed(1)
    config = SRUppLanguageModelConfig(hidden_size=12, attention_dim=8, layers=2, mem_len=3, dropout=0.0)
    model = awake(SRUppLanguageModel.build_model(config, task)).eval()
    texts = ["mnopqrstuv", "cdx"]
    for text, scored in zip(texts, infer((task, model), texts, score_reference=True)):
        tokens = torch.tensor([[task.dictionary.index(letter) for letter in text]])
        log_probs = model(tokens[:, :-1], stream=("test", 1, 0))[0].log_softmax(-1)
        expected = log_probs.gather(-1, tokens[:, 1:].unsqueeze(-1)).flatten()
        torch.testing.assert_close(scored["positional_scores"], expected, rtol=0, atol=1e-5)
        (generated,) = infer((task, model), [text], beam=1, max_len_b=12)
        torch.testing.assert_close(generated["positional_scores"][1 : len(text)], expected, rtol=0, atol=1e-5)


def test_a_line_typed_in_is_continued(corpus, trained, tmp_path, capsys, caplog):
    (tmp_path / "lines").write_text("the  squid\nA\n")
    words = [corpus, *TASK, "--path", str(trained / "checkpoint_last.pt"), "--input", str(tmp_path / "lines")]
    words += ["--bpe", "raw_bytes", "--beam", "2", "--max-len-a", "1", "--max-len-b", "9", "--buffer-size", "2"]
    args = options.parse_args_and_arch(options.get_interactive_generation_parser(), words)
    interactive.main(convert_namespace_to_omegaconf(args))
    shown = dict(line.split("\t", 1) for line in capsys.readouterr().out.splitlines() if line.startswith(("D-", "H-")))
    assert shown["D-0"].split("\t")[1].startswith("the  s\ufffduid")  # the corpus has no q
    assert len(shown["H-0"].split("\t")[1].split()) > len("the  squid")
    assert shown["H-1"].split("\t")[1].startswith("<unk> ")
    assert "2 byte(s) of the input are not in the dictionary" in caplog.text  # q and A
    args.max_len_a, args.max_len_b = 0, 5
    interactive.main(convert_namespace_to_omegaconf(args))
    assert "a prompt of 10 tokens leaves nothing of the 5" in caplog.text
    (tmp_path / "lines").write_bytes(b"the \xff squid\n")
    with pytest.raises(SystemExit, match="not UTF-8: byte 0xff at position 4"), known_mistakes():
        interactive.main(convert_namespace_to_omegaconf(args))


def test_generation_from_a_stream_is_refused(corpus):
    task = make_task(corpus)
    task.load_dataset("test")
    batch = task.get_batch_iterator(task.dataset("test")).first_batch
    with pytest.raises(SystemExit, match="use fairseq-interactive"):
        task.inference_step(None, [], batch)
