"""Shards of a translation are parts of it; options that a command does not follow are refused."""

import contextlib
import io
import random
import re
from types import SimpleNamespace

import pytest

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.user_dir import PACKAGE_DIR

MODEL = "--arch srupp_transformer --hidden-size 12 --attention-dim 8 --embed-dim 6 --encoder-layers 1 --decoder-layers 1"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory, fairseq_cli):
    """`pairs.generate(*options)`: what fairseq-generate prints of 23 sentences."""
    folder, words = tmp_path_factory.mktemp("pairs"), random.Random(0)
    for split, count in (("train", 20), ("test", 23)):
        for language in ("de", "en"):
            lines = (" ".join(words.choices("abcdefghij", k=words.randint(1, 6))) for _ in range(count))
            (folder / f"{split}.{language}").write_text("".join(f"{line}\n" for line in lines))
    fairseq_cli("preprocess", f"-s de -t en --workers 1 --trainpref {folder}/train --testpref {folder}/test --destdir {folder}")
    training = f"--user-dir {PACKAGE_DIR} --cpu --optimizer adam --lr 0.02 --max-tokens 300 --num-workers 0"
    fairseq_cli("train", folder, training, MODEL, "--max-update 1 --disable-validation --save-dir", folder)
    path = folder / "checkpoint_last.pt"

    def generate(*options):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            limits = f"--user-dir {PACKAGE_DIR} --cpu --max-len-b 6 --beam 2 --path {path} --num-workers 0"
            fairseq_cli("generate", folder, limits, *options)
        return printed.getvalue()

    return SimpleNamespace(generate=generate, data=folder, path=path)


def lines(printed):
    return sorted(re.findall(r"^[STHDP]-.*$", printed, re.MULTILINE))


@pytest.mark.parametrize("batch", ["--batch-size 4", "--max-tokens 20"])
def test_shards_are_together_the_whole(pairs, batch):
    whole = lines(pairs.generate(batch))
    shards = [lines(pairs.generate(batch, f"--num-shards 3 --shard-id {shard}")) for shard in range(3)]
    assert all(shards) and sorted(line for shard in shards for line in shard) == whole
    assert len([line for line in whole if line.startswith("H-")]) == 23


def test_shards_that_cannot_be(pairs):
    with pytest.raises(UserError, match="--shard-id 3: expected a number from 0 to below --num-shards, 3"):
        pairs.generate("--num-shards 3 --shard-id 3")
    with pytest.raises(UserError, match="nothing to translate: shard 8 of 9 of --gen-subset test has no batch"):
        pairs.generate("--num-shards 9 --shard-id 8")


def test_shards_of_a_text_to_score(fairseq_cli, text, trained):
    with pytest.raises(UserError, match="--shard-id 2: expected"):
        options = "--num-shards 2 --shard-id 2 --gen-subset valid --cpu"
        fairseq_cli("eval-lm", text.data, options, "--path", trained / "checkpoint_last.pt")


@pytest.mark.parametrize(
    "command, options, line",
    [
        ("interactive", "--num-shards 2", "fairseq-interactive does not follow --num-shards 2, which is for fairseq-gen"),
        ("interactive", "--prefix-size 2", "--prefix-size 2, which is for fairseq-generate"),
        ("interactive", "--score-reference", "--score-reference, which is for fairseq-generate"),
        ("interactive", "--lm-path x.pt", "--lm-path x.pt"),
        ("interactive", "--results-path out", "--results-path out, which is for fairseq-generate; redirect"),
        ("generate", "--valid-subset test1", "--valid-subset test1, which is for fairseq-validate; give --gen-subset"),
        ("eval-lm", "--valid-subset test", "fairseq-eval-lm does not follow --valid-subset test"),
        ("validate", "--task translation --num-shards 2", "fairseq-validate does not follow --num-shards 2"),
        ("validate", "--task translation --gen-subset valid", "--gen-subset valid, which .* give --valid-subset"),
        ("train", f"{MODEL} --optimizer adam --num-shards 2", "fairseq-train does not follow --num-shards 2"),
    ],
)
def test_what_is_not_followed_is_refused(pairs, fairseq_cli, command, options, line, tmp_path):
    model = f"--save-dir {tmp_path}" if command == "train" else f"--path {pairs.path}"
    with pytest.raises(UserError, match=line):
        fairseq_cli(command, pairs.data, f"--user-dir {PACKAGE_DIR} --cpu --batch-size 1", model, options)


def test_options_that_bleu_in_validation_does_not_follow(pairs, fairseq_cli):
    with pytest.raises(UserError, match="--eval-bleu-args .*: validation does not follow nbest, replace_unk"):
        options = f"--user-dir {PACKAGE_DIR} --cpu --optimizer adam --max-tokens 300 --no-save --disable-validation"
        arguments = '{"beam":4,"replace_unk":"","nbest":2}'
        fairseq_cli("train", pairs.data, MODEL, options, "--eval-bleu --eval-bleu-args", arguments)
