"""The paper's commands train and evaluate, at a tiny width."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_srupp.compat.user_dir import PACKAGE_DIR

EXAMPLES = Path(__file__).parents[2] / "examples"
WORDS = [f"w{n}" for n in range(50)]
TINY = "--hidden-size 16 --attention-dim 8 --layers 2 --tokens-per-sample 8 --max-update 3 --warmup-updates 2"
TINY_WORDS = "--embed-dim 32 --adaptive-softmax-cutoff 10,20"


def bash(script, *words, **environment):
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    variables = {"PATH": path, "PYTHONPATH": os.path.dirname(PACKAGE_DIR), "OMP_NUM_THREADS": "1", "GPUS": "0"}
    return subprocess.run(
        ["bash", str(EXAMPLES / script), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **variables, **environment},
    )


def fails(done, message):
    return done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders with data of bytes and of words."""
    folder = tmp_path_factory.mktemp("data")
    text = "".join(" ".join(WORDS[n * k % 50] for k in range(9)) + "\n" for n in range(40))
    (folder / "text").write_text(text)
    splits = [word for split in ("train", "valid", "test") for word in (f"--{split}", folder / "text")]
    prefixes = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", folder / "text")]
    commands = (
        ["fairseq_srupp", "prepare-bytes", *splits, "--destdir", folder / "bytes"],
        ["fairseq_cli.preprocess", "--only-source", *prefixes, "--destdir", folder / "words"],
    )
    for command in commands:
        environment = {**os.environ, "PYTHONPATH": os.path.dirname(PACKAGE_DIR)}
        subprocess.run([sys.executable, "-m", *map(str, command)], check=True, capture_output=True, env=environment)
    return folder


@pytest.mark.parametrize(
    "corpus, arch, kind, result",
    [
        ("enwik8", "srupp_lm_enwik8_small", "bytes", "bpc: "),
        ("enwik8", "srupp_lm_enwik8_base", "bytes", "bpc: "),
        ("wiki103", "srupp_lm_wiki103_base", "words", "ppl: "),
        ("lm1b", "srupp_lm_lm1b_base", "words", "ppl: "),
    ],
)
def test_training_and_evaluation(data, tmp_path, corpus, arch, kind, result):
    options = [*TINY.split(), *(TINY_WORDS.split() if kind == "words" else [])]
    run = bash(f"{corpus}/train.sh", arch, data / kind, tmp_path / "run", *options, ROWS="4")
    assert run.returncode == 0, run.stderr[-3000:] + run.stdout[-3000:]
    assert "num_updates 3" in (tmp_path / "run" / "train.log").read_text()
    checkpoint = tmp_path / "run" / "checkpoint_best.pt"
    evaluated = bash(f"{corpus}/evaluate.sh", data / kind, checkpoint, 16, "--cpu")
    assert evaluated.returncode == 0, evaluated.stderr[-3000:]
    assert result in evaluated.stdout + evaluated.stderr


def test_what_is_missing_is_told_in_one_line(data, tmp_path):
    for corpus in ("enwik8", "wiki103", "lm1b"):
        assert fails(bash(f"{corpus}/train.sh"), "train.sh ARCH DATA OUT")
        assert fails(bash(f"{corpus}/evaluate.sh"), "evaluate.sh DATA CHECKPOINT")
        other = bash(f"{corpus}/train.sh", "srupp_lm_other", data / "bytes", tmp_path)
        assert fails(other, "train.sh: no settings for srupp_lm_other")
    rows = bash("enwik8/train.sh", "srupp_lm_enwik8_base", data / "bytes", tmp_path / "run", GPUS="3")
    assert fails(rows, "32 rows cannot be shared by 3 GPUs")
