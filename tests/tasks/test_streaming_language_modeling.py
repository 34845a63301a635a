"""The streaming task under fairseq's own train, validate and eval-lm, run in this process."""

import logging
import re
import shutil
from unittest import mock

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import validate
from streams import SRUPP, TASK, make_task, run_eval_lm, run_train

from fairseq_srupp.tasks.streaming_language_modeling import (
    StreamingLanguageModelingConfig,
    StreamingLanguageModelingTask,
)

TRANSFORMER = (
    "--arch transformer_lm --decoder-layers 1 --decoder-embed-dim 16 --decoder-ffn-embed-dim 16 --decoder-attention-heads 1"
).split()


def run_validate(corpus, checkpoint, *arguments):
    words = [corpus, *TASK, "--path", str(checkpoint), "--valid-subset", "test", *map(str, arguments)]
    args = options.parse_args_and_arch(options.get_validation_parser(), words)
    override = options.parse_args_and_arch(options.get_validation_parser(), words, suppress_defaults=True)
    with mock.patch.object(validate, "reset_logging"):  # would take pytest's handlers away
        validate.main(convert_namespace_to_omegaconf(args), override_args=override)


def logged(caplog, pattern):
    """The first group of the pattern's last occurrence in the log."""
    return re.findall(pattern, caplog.text)[-1]


def parameters(save_dir):
    return torch.load(save_dir / "checkpoint_last.pt", weights_only=True)["model"]


def test_a_model_without_memory_trains_and_evaluates_on_the_same_stream(corpus, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        run_train(corpus, tmp_path, *TRANSFORMER, "--tokens-per-sample", 32, "--batch-size", 4, "--max-epoch", 2)
        assert "reads each segment by itself" in caplog.text
        assert "train: 3,001 tokens in 4 rows of 750, 24 segments each" in caplog.text
        loss = run_eval_lm(corpus, tmp_path / "checkpoint_last.pt", "--tokens-per-sample", 32)
        assert logged(caplog, r"Evaluated ([\d,]+) tokens") == "1,000"
        padded = run_eval_lm(corpus, tmp_path / "checkpoint_last.pt", "--tokens-per-sample", 32, "--batch-size", 31)
        assert logged(caplog, r"Evaluated ([\d,]+) tokens") == "1,000"
        run_validate(corpus, tmp_path / "checkpoint_last.pt", "--batch-size", 31)
        assert float(logged(caplog, r"'test' subset \| loss ([\d.]+)")) == pytest.approx(padded, abs=1e-3)
    assert 1 < loss < 4 and padded == pytest.approx(loss, abs=0.2)
    assert not (tmp_path / "stream_states").exists()


@pytest.mark.parametrize("mem_len, warned", [(5, True), (32, False)])
def test_a_memory_that_is_shorter_than_a_segment_is_warned_of(corpus, tmp_path, caplog, mem_len, warned):
    options = ["--tokens-per-sample", 32, "--batch-size", 4, "--max-update", 1, "--mem-len", mem_len, "--disable-validation"]
    run_train(corpus, tmp_path, *SRUPP, *options)
    message = "training attends to up to 36 positions before, evaluation and generation to 5"
    assert (message in caplog.text) == warned


def test_validation_in_training_is_that_of_the_commands(corpus, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        options = ["--tokens-per-sample", 32, "--batch-size", 4, "--batch-size-valid", 3, "--max-update", 3]
        run_train(corpus, tmp_path, *SRUPP, *options, "--valid-subset", "test", "--ignore-unused-valid-subsets")
        in_training = float(logged(caplog, r"'test' subset \| loss ([\d.]+)"))
        assert "test: 1,001 tokens in 3 rows of 334, 11 segments each" in caplog.text
        run_validate(corpus, tmp_path / "checkpoint_last.pt", "--batch-size", 3, "--tokens-per-sample", 50)
        assert float(logged(caplog, r"'test' subset \| loss ([\d.]+)")) == pytest.approx(in_training, abs=1.01e-3)
    evaluated = run_eval_lm(corpus, tmp_path / "checkpoint_last.pt", "--batch-size", 3, "--tokens-per-sample", 7)
    assert evaluated == pytest.approx(in_training, abs=1e-3)


def test_every_token_but_the_first_is_scored(corpus, trained, caplog):
    losses = []
    for rows, tokens_per_sample in ((1, 100), (1, 7), (3, 100), (1001, 32)):
        with caplog.at_level(logging.INFO):
            arguments = ["--batch-size", rows, "--tokens-per-sample", tokens_per_sample]
            losses.append(run_eval_lm(corpus, trained / "checkpoint_last.pt", *arguments))
        assert logged(caplog, r"Evaluated ([\d,]+) tokens") == "1,000"
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert losses[3] > losses[0] + 0.05  # a thousand rows of one pair have no context


def test_state_files_are_those_of_the_checkpoints(trained):
    named = {
        torch.load(path, weights_only=True)["extra_state"]["train_iterator"]["stream"]["update"]
        for path in trained.glob("checkpoint*.pt")
    }
    assert named == {None, 30}  # an epoch of 24 updates, of the second 6; what was saved at 10 and 20 is gone
    assert [path.name for path in (trained / "stream_states").iterdir()] == ["update30.rank0.pt"]


@pytest.mark.parametrize("update_freq", [1, 2])
def test_a_stopped_run_goes_on_to_the_last_bit(corpus, tmp_path, caplog, update_freq):
    options = [*SRUPP, "--tokens-per-sample", 16, "--batch-size", 4, "--update-freq", update_freq]
    run_train(corpus, tmp_path / "whole", *options, "--max-update", 12, "--disable-validation")
    run_train(corpus, tmp_path / "stopped", *options, "--max-update", 5, "--save-interval-updates", 2)
    shutil.copytree(tmp_path / "stopped", tmp_path / "without")
    run_train(corpus, tmp_path / "stopped", *options, "--max-update", 12, "--data-buffer-size", 0)
    whole, resumed = parameters(tmp_path / "whole"), parameters(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    shutil.rmtree(tmp_path / "without" / "stream_states")
    with caplog.at_level(logging.WARNING):
        run_train(corpus, tmp_path / "without", *options, "--max-update", 12, "--disable-validation")
    assert "to rebuild the stream state" in caplog.text
    other = parameters(tmp_path / "without")
    assert not all(torch.equal(whole[name], other[name]) for name in whole)


def test_starting_the_data_over(corpus, trained, tmp_path, caplog):
    options = [*SRUPP, "--tokens-per-sample", 32, "--max-update", 32, "--disable-validation"]
    shutil.copytree(trained, tmp_path / "run")
    with pytest.raises(SystemExit, match="6 rows instead of 4.*--reset-dataloader"):
        run_train(corpus, tmp_path / "run", *options, "--batch-size", 6)
    with caplog.at_level(logging.INFO):
        run_train(corpus, tmp_path / "run", *options, "--batch-size", 6, "--reset-dataloader")
    assert "begin training epoch 1" in caplog.text and "rebuild" not in caplog.text
    tuned = ["--finetune-from-model", trained / "checkpoint_last.pt"]
    run_train(corpus, tmp_path / "tuned", *options, "--batch-size", 6, *tuned)
    state = torch.load(tmp_path / "tuned" / "checkpoint_last.pt", weights_only=True)["extra_state"]["train_iterator"]
    assert (state["epoch"], state["iterations_in_epoch"]) == (3, 0)  # 32 updates, 16 an epoch


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--max-tokens", 100], "needs --batch-size"),
        (["--batch-size", 3001], "train has 3,001 tokens: too few for 3,001 rows"),
        (["--batch-size", 0], "--batch-size must be at least 1, not 0"),
        (["--batch-size", 4, "--batch-size-valid", -2], "must be at least 1, not -2"),
        (["--batch-size", 4, "--tokens-per-sample", 0], "--tokens-per-sample must be at least 1"),
        (["--batch-size", 4, "--valid-subset", "valid,other"], "no data for this split: .*/other.bin"),
        (["--batch-size", 4, "--shuffle-sentences"], "--shuffle-sentences needs sentences, but train is one whole text"),
        (["--batch-size", 4, "--add-bos-token"], "--add-bos-token is not possible"),
    ],
)
def test_bad_options_are_one_line(corpus, tmp_path, arguments, message):
    with pytest.raises(SystemExit) as refusal:
        run_train(corpus, tmp_path, *TRANSFORMER, *arguments, "--max-update", 1, "--ignore-unused-valid-subsets")
    assert re.search(message, str(refusal.value)) and "\n" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []


def test_as_many_rows_as_pairs(corpus, tmp_path):
    run_train(corpus, tmp_path, *TRANSFORMER, "--batch-size", 3000, "--max-epoch", 1, "--disable-validation")


@pytest.mark.parametrize("context", [32, 600])
def test_context_window_is_refused(corpus, trained, context):
    arguments = ["--context-window", context, "--tokens-per-sample", 600]
    with pytest.raises(SystemExit, match="--context-window"):
        run_eval_lm(corpus, trained / "checkpoint_last.pt", *arguments)


def test_missing_or_foreign_dictionary(tmp_path):
    for data, message in ((None, "needs the folder"), (tmp_path / "nowhere", "dict.txt is missing")):
        with pytest.raises(SystemExit, match=message):
            StreamingLanguageModelingTask.setup_task(StreamingLanguageModelingConfig(data=data and str(data)))
    (tmp_path / "dict.txt").write_text("a b c\n")
    with pytest.raises(SystemExit, match="is no dictionary"):
        make_task(tmp_path)


@pytest.mark.parametrize("given", [False, True, None])
def test_training_and_evaluation_of_one_split_are_different_streams(corpus, given):
    task = make_task(corpus, tokens_per_sample=32)
    task.load_dataset("train")
    dataset = task.dataset("train")
    training = task.get_batch_iterator(dataset, max_sentences=7, update_epoch_batch_itr=given)
    evaluation = task.get_batch_iterator(dataset, max_sentences=7)
    assert training.first_batch["net_input"]["stream"] == ("train", 1, 0)
    assert evaluation.first_batch["net_input"]["stream"][0] != "train"
    found = [sum(batch["ntokens"] for batch in itr.next_epoch_itr()) for itr in (training, evaluation)]
    assert found == [3000 // 7 * 7, 3000]
    assert task.get_batch_iterator(dataset, max_sentences=7, update_epoch_batch_itr=given) is training
    assert task.get_batch_iterator(dataset, max_sentences=8) is not evaluation


def test_the_training_stream_is_named_so_whatever_its_split_and_its_rest_is_told(corpus, caplog):
    task = make_task(corpus, tokens_per_sample=32)
    task.load_dataset("test")
    with caplog.at_level(logging.INFO):
        training = task.get_batch_iterator(task.dataset("test"), max_sentences=7, update_epoch_batch_itr=False)
    assert training.first_batch["net_input"]["stream"] == ("train", 1, 0)
    assert "; the last 6 are left out to make the rows equally long" in caplog.text


def test_another_model_reads_streams_of_its_own(corpus):
    task = make_task(corpus, tokens_per_sample=32)
    task.load_dataset("test")
    options = {"max_sentences": 7, "update_epoch_batch_itr": False}
    task.model = torch.nn.Linear(1, 1)
    first = task.get_batch_iterator(task.dataset("test"), **options)
    assert task.get_batch_iterator(task.dataset("test"), **options) is first
    task.model = torch.nn.Linear(1, 1)
    assert task.get_batch_iterator(task.dataset("test"), **options) is not first


def test_the_memory_is_as_long_as_a_training_segment_unless_told(corpus, trained, tmp_path):
    config = torch.load(trained / "checkpoint_last.pt", weights_only=True)["cfg"]["model"]
    assert config["mem_len"] == 32
    run_train(corpus, tmp_path, *SRUPP, "--mem-len", 5, "--batch-size", 4, "--max-update", 1, "--disable-validation")
    assert torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["cfg"]["model"]["mem_len"] == 5


def test_ranks_share_the_rows_out_and_run_equally_many_batches(corpus):
    task = make_task(corpus, tokens_per_sample=32)
    task.load_dataset("test")
    ranks = [task.get_batch_iterator(task.dataset("test"), max_sentences=4, num_shards=3, shard_id=r) for r in range(3)]
    batches = [list(rank.next_epoch_itr(shuffle=True)) for rank in ranks]
    assert [len(of_rank) for of_rank in batches] == [3, 3, 3]  # 84 pairs a row
    assert sum(batch["ntokens"] for of_rank in batches for batch in of_rank) == 1000
    whole = task.dataset("test").stream.take(np.arange(0, 1001))
    for rank, of_rank in enumerate(batches):
        target = torch.cat([batch["target"] for batch in of_rank], 1)
        text = target[target != task.dictionary.pad()].numpy()
        assert (text == whole[1 + rank * 336 : 1 + rank * 336 + len(text)]).all()


def test_data_in_shards_take_turns(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "second")
    shutil.copy(tmp_path / "second" / "valid.bin", tmp_path / "second" / "train.bin")
    shutil.copy(tmp_path / "second" / "valid.idx", tmp_path / "second" / "train.idx")
    task = make_task(f"{corpus}:{tmp_path / 'second'}")
    lengths = []
    for epoch in (1, 2, 3):
        task.load_dataset("train", epoch=epoch)
        lengths.append(len(task.dataset("train").stream))
    assert lengths == [3001, 302, 3001] and task.has_sharded_data("train")


def test_a_memory_longer_than_the_text(corpus, trained):
    """It holds what there is."""
    checkpoint, options = trained / "checkpoint_last.pt", ["--tokens-per-sample", 32, "--model-overrides"]
    whole = run_eval_lm(corpus, checkpoint, *options, "{'mem_len': 1000}")
    assert run_eval_lm(corpus, checkpoint, *options, "{'mem_len': 100000}") == whole


def words_of(corpus, folder):
    """The corpus under a dictionary of words."""
    shutil.copytree(corpus, folder)
    lines = (folder / "dict.txt").read_text().splitlines()
    (folder / "dict.txt").write_text("".join(f"word{i} {line.split()[1]}\n" for i, line in enumerate(lines)))
    return str(folder)


ADAPTIVE = "--adaptive-input --adaptive-softmax-cutoff 8,12 --embed-dim 16 --tie-adaptive-weights".split()


def test_results_have_the_names_of_the_field(corpus, tmp_path, caplog):
    """Bits per character of bytes, perplexity of words, while training and in evaluation."""
    words = words_of(corpus, tmp_path / "words")
    for data, name in ((corpus, "bpc"), (words, "ppl")):
        caplog.clear()
        caplog.set_level(logging.INFO)
        folder = tmp_path / name
        run_train(data, folder, *SRUPP, "--tokens-per-sample", 64, "--batch-size", 4, "--max-update", 4)
        valid = next(r.getMessage() for r in caplog.records if r.name == "valid")
        logged = dict(re.findall(r"\| (\S+) (\S+)", valid))
        bits = float(logged["loss"])
        assert ("bpc" in logged) == (name == "bpc")
        expected = bits if name == "bpc" else 2**bits
        assert float(logged[name]) == pytest.approx(expected, abs=0.01)

        bits = run_eval_lm(data, folder / "checkpoint_last.pt", "--batch-size", 2, "--tokens-per-sample", 64)
        named = {"bpc": f"bpc: {bits:.4f}", "ppl": f"ppl: {2**bits:.3f} per word"}
        assert named[name] in [r.getMessage() for r in caplog.records]


@pytest.mark.parametrize("tie", [[], ["--tie-adaptive-proj"]])
def test_adaptive_softmax_scores_the_same_everywhere(corpus, tmp_path, caplog, tie):
    """The loss of validation while training, of fairseq-eval-lm, and of a softmax over all words written out."""
    caplog.set_level(logging.INFO)
    run_train(
        corpus, tmp_path, *SRUPP, *ADAPTIVE, *tie, "--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp",
        "--tokens-per-sample", 64, "--batch-size", 4, "--batch-size-valid", 1, "--max-update", 20, "--valid-subset", "test",
        "--mem-len", 16,
    )  # fmt: skip
    valid = [r.getMessage() for r in caplog.records if r.name == "test"][-1]
    bits = run_eval_lm(corpus, tmp_path / "checkpoint_last.pt", "--batch-size", 1, "--tokens-per-sample", 64)
    assert float(re.search(r"loss (\S+)", valid)[1]) == pytest.approx(bits, abs=2e-3)

    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(tmp_path / "checkpoint_last.pt")])
    decoder = models[0].eval().decoder
    task.load_dataset("test")
    tokens = torch.from_numpy(np.concatenate(list(task.dataset("test").stream.chunks())).astype(np.int64))
    x = decoder.embed(tokens[None, :-1])
    features, _ = decoder.stack.forward_cached(x, None, window=16)
    scores = decoder.get_normalized_probs((features.transpose(0, 1), {}), True)[0]
    plain = -scores.gather(1, tokens[1:, None]).mean().item() / np.log(2)
    assert bits == pytest.approx(plain, abs=1e-4)
