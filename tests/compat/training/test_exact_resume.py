"""A run that was stopped and started again ends in the bits of one that was not: fairseq's own models and ours."""

import random
from pathlib import Path

import pytest
import torch
from stopped_runs import run_with_kills

from fairseq_srupp.compat.files.weights_only import load
from fairseq_srupp.compat.user_dir import PACKAGE_DIR

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # numpy of fairseq

COMMON = (
    f"--user-dir {PACKAGE_DIR} --cpu --optimizer adam --lr 0.01 --dropout 0.1 --num-workers 0 --no-progress-bar "
    "--log-interval 1000 --no-epoch-checkpoints --save-interval 100 --seed 5 --disable-validation "
)
TRANSFORMER = (
    "--task translation --arch transformer --encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 8 "
    "--decoder-embed-dim 8 --encoder-ffn-embed-dim 8 --decoder-ffn-embed-dim 8 --encoder-attention-heads 2 "
    "--decoder-attention-heads 2 --max-tokens 60 "
)
SRUPP = (
    "--task translation --arch srupp_transformer --encoder-layers 1 --decoder-layers 1 --hidden-size 16 "
    "--attention-dim 8 --embed-dim 8 --alpha-init 0.5 --max-tokens 60 "
)
LANGUAGE_MODEL = (
    "--task language_modeling --arch transformer_lm --decoder-layers 1 --decoder-embed-dim 8 --decoder-input-dim 8 "
    "--decoder-output-dim 8 --decoder-ffn-embed-dim 8 --decoder-attention-heads 2 --sample-break-mode eos "
    "--tokens-per-sample 16 --batch-size 16 "
)
MASKED = (
    "--task masked_lm --arch masked_lm --criterion masked_lm --encoder-layers 1 --encoder-embed-dim 8 "
    "--encoder-ffn-embed-dim 8 --encoder-attention-heads 2 --sample-break-mode eos --tokens-per-sample 16 "
    "--batch-size 16 --max-positions 18 "
)
UPDATES = 23  # of 7 or 8 in an epoch


def stops(number, seed):
    """So many of the updates, at random; the run ends after the last."""
    return [*sorted(random.Random(seed).sample(range(1, UPDATES), number)), UPDATES]


def state_of(folder):
    state = load(str(Path(folder) / "checkpoint_last.pt"))
    return state["model"], state["last_optimizer_state"], state["optimizer_history"][-1]["num_updates"]


def assert_same(folder, other):
    (model, optimizer, updates), (same, as_well, too) = state_of(folder), state_of(other)
    assert updates == too
    torch.testing.assert_close(model, same, rtol=0, atol=0)
    torch.testing.assert_close(optimizer, as_well, rtol=0, atol=0)


def compare(fairseq_cli, tmp_path, *words, seed=0):
    number = 2 if "--num-workers 2" in words else 5  # processes start slowly
    for name, ends in (("whole", [UPDATES]), ("parts", stops(number, seed))):
        for end in ends:
            fairseq_cli("train", *words, "--max-update", end, "--save-dir", tmp_path / name)
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    "options",
    [
        [TRANSFORMER],
        [TRANSFORMER, "--curriculum 2 --update-ordered-indices-seed --num-batch-buckets 2"],
        [SRUPP, "--num-workers 2", "--update-freq 2"],
    ],
)
def test_translation(fairseq_cli, pairs, tmp_path, options):
    compare(fairseq_cli, tmp_path, pairs, COMMON, *options, seed=len(options))


@pytest.mark.parametrize("options", [[LANGUAGE_MODEL], [MASKED, "--num-workers 2"]])
def test_text(fairseq_cli, text, tmp_path, options):
    """The masks of masked_lm are others in each epoch."""
    compare(fairseq_cli, tmp_path, text.data, COMMON, *options)


def test_two_processes_killed_at_random(pairs, tmp_path):
    options = f"-m fairseq_cli.train {pairs} {COMMON} {SRUPP} --max-update {UPDATES} --save-interval-updates 2 "
    options += "--keep-interval-updates 1 --distributed-world-size 2 --distributed-backend gloo "
    for name, kills in (("whole", 0), ("killed", 1)):
        run_with_kills(f"{options} --save-dir {tmp_path / name}".split(), tmp_path / name, kills, seed=3)
    assert_same(tmp_path / "whole", tmp_path / "killed")
    assert (tmp_path / "killed.log").read_text().count("Preparing to load checkpoint") == 2
