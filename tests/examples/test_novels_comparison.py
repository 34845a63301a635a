"""examples/novels/compare.sh with commands that train nothing: which rate is taken, what is scored, where the curves cross."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# An update takes half a second by its log. A checkpoint holds what it costs: more at the start, and by the learning rate.
TRAIN = """#!/usr/bin/env python3
import os, sys
options = dict(zip(sys.argv, sys.argv[1:]))
model, rate, updates, folder = options["--arch"], float(options["--lr"]), int(options["--max-update"]), options["--save-dir"]
with open(os.environ["NOTES"], "a") as notes:
    print(model, rate, updates, options["--warmup-updates"], file=notes)
failing = os.environ.get("FAILS", "no one").split()
if model == failing[0] and failing[1] in (str(updates), options["--lr"]):
    print("fairseq_srupp:", " ".join(failing[2:]))
    sys.exit(1)
best = {"srupp_lm": 0.006, "transformer_lm": 0.001}[model]
def checkpoint(name, at):
    cost = {"srupp_lm": 2, "transformer_lm": 2.5}[model] + 8 / at + (rate != best)
    open(f"{folder}/{name}.pt", "w").write("nan" if rate == 0.012 else str(cost))
for at in range(1, updates + 1):
    if at % int(options["--log-interval"]) == 0 or at in (1, 2):
        print(f"2026-01-01 | INFO | train_inner | epoch 001: {at} / 99 loss=5, ups=2.00, wpb=1024, num_updates={at}, wall={at / 2}")
    if "--save-interval-updates" in options and at % int(options["--save-interval-updates"]) == 0:
        checkpoint(f"checkpoint_1_{at}", at)
checkpoint("checkpoint_last", updates)
print("2026-01-01 | INFO | fairseq_cli.train | done training in 12.3 seconds")
"""

EVALUATE = """#!/usr/bin/env python3
import os, sys
path = dict(zip(sys.argv, sys.argv[1:]))["--path"]
with open(os.environ["NOTES"], "a") as notes:
    print("scored", path, file=notes)
if os.environ.get("FAILS", "").startswith(f"score {path.split('/')[-2]} "):
    sys.exit("fairseq_srupp: no memory")
print(f"INFO:fairseq_cli.eval_lm:Loss (base 2): {float(open(path).read()):.4f}, Perplexity: 1.00")
"""


@pytest.fixture
def compare(tmp_path):
    """A function that runs the script for 20 updates of each model, with 2 for each learning rate."""
    commands, text = tmp_path / "bin", tmp_path / "text"
    commands.mkdir()
    for name, program in (
        ("fairseq-train", TRAIN),
        ("fairseq-eval-lm", EVALUATE),
        ("taskset", '#!/bin/sh\nshift 2; exec "$@"\n'),
    ):
        (commands / name).write_text(program)
        (commands / name).chmod(0o755)
    text.write_text("It was a dark and stormy night.\n")
    path = os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "NOTES": str(tmp_path / "notes"),
        "MINUTES": "0.17",
        "SEARCH_MINUTES": "0.02",
    }

    def run(text="text", **variables):
        files = [str(tmp_path / name) for name in (text, text, "out")]
        command = [str(ROOT / "examples/novels/compare.sh"), *files]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings, **variables}, timeout=120)

    run.notes = lambda: (tmp_path / "notes").read_text().splitlines()
    return run


def test_comparison(compare, tmp_path):
    done = compare()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[-10:]
    assert (
        lines[0] == "srupp_lm, learning rate 0.003, in the search: 7.0000"
        and "srupp_lm, learning rate 0.012, in the search: nan" in lines
    )
    curves = [line.split("  ") for line in lines if "minutes and bits" in line]
    assert [len(curve) for curve in curves] == [11, 11] and curves[0][-1] == "0.2 2.400" and curves[1][-1] == "0.2 2.900"
    assert lines[-2] == "srupp_lm has the last value of transformer_lm after 0.1 minutes"  # after 9 of 20 updates
    assert (tmp_path / "out" / "bits.svg").stat().st_size > 1000
    trained = sorted(note for note in compare.notes() if "scored" not in note)
    assert [note for note in trained if " 20 " in note] == ["srupp_lm 0.006 20 2", "transformer_lm 0.001 20 2"]
    assert len(trained) == 2 * (1 + 3 + 1) and len(compare.notes()) == len(trained) + 2 * (3 + 10)


def test_what_has_been_done_is_left_out(compare, tmp_path):
    first = compare()
    before = compare.notes()
    (tmp_path / "out/srupp_lm/checkpoint_1_20.eval.log").unlink()
    again = compare()
    assert again.returncode == 0 and again.stdout.splitlines()[-8:] == first.stdout.splitlines()[-8:]
    assert compare.notes()[len(before) :] == [f"scored {tmp_path}/out/srupp_lm/checkpoint_1_20.pt"]
    (tmp_path / "text").rename(tmp_path / "other")
    other = compare(text="other")
    assert (
        other.returncode == 1
        and f"has a comparison with TRAIN={tmp_path}/text" in other.stderr
        and len(other.stderr.splitlines()) == 1
    )


@pytest.mark.parametrize("updates, folder", [("100", ".speed"), ("20", "")])
def test_one_training_fails(compare, tmp_path, updates, folder):
    failed = compare(FAILS=f"transformer_lm {updates} no memory")
    assert failed.returncode == 1
    assert failed.stderr.splitlines()[-1] == (
        f"compare.sh: training failed, see {tmp_path}/out/transformer_lm{folder}/train.log: fairseq_srupp: no memory"
    )


def test_a_rate_that_diverges_is_out(compare):
    done = compare(FAILS="transformer_lm 0.002 training diverged in update 7")
    assert done.returncode == 0, done.stderr
    assert "transformer_lm, learning rate 0.002, in the search: nan" in done.stdout.splitlines()
    assert "transformer_lm 0.001 20 2" in compare.notes()


def test_a_score_that_fails_is_no_score(compare, tmp_path):
    failed = compare(FAILS="score srupp_lm.0.003 now")
    assert failed.returncode == 1 and "evaluation failed, see" in failed.stderr.splitlines()[-1]
    assert not (tmp_path / "out/srupp_lm.rate").exists() and not any(" 20 2" in note for note in compare.notes())
