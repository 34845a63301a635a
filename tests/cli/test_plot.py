"""plot: logs of both formats, several runs, resumed runs, and what it refuses."""

import argparse
import re

import pytest

from fairseq_srupp.cli import plot

SIMPLE = """\
2026-11-20 10:00:00 | INFO | fairseq_cli.train | num. shared model params: 27,427 (num. trained: 27,427)
2026-11-20 10:00:10 | INFO | train_inner | epoch 001:     10 / 2123 loss=7.5, nll_loss=7.25, ppl=152.22, wps=3000, ups=1.5, wpb=2000, bsz=8, num_updates=10, lr=0.001, gnorm=1.2, clip=100, train_wall=9, wall=36
2026-11-20 10:00:20 | INFO | train_inner | epoch 001:     20 / 2123 loss=5.5, nll_loss=5, ppl=32, wps=3000, ups=1.5, wpb=2100, bsz=8, num_updates=20, lr=0.001, gnorm=1.1, clip=100, train_wall=9, wall=72
2026-11-20 10:00:22 | INFO | valid | epoch 001 | valid on 'valid' subset | loss 5.75 | nll_loss 5.5 | ppl 45.25 | wps 9000 | wpb 2048 | bsz 8 | num_updates 15 | best_loss 5.75
2026-11-20 10:00:23 | INFO | train | epoch 001 | loss 6.5 | nll_loss 6.125 | ppl 69.79 | wps 2900 | ups 1.4 | wpb 2048 | bsz 8 | num_updates 20 | lr 0.001 | gnorm 1.15 | clip 100 | train_wall 18 | wall 73
"""

JSON = """\
2026-11-20 10:00:10 | INFO | train_inner | {"epoch": 1, "update": 0.005, "loss": "7.5", "nll_loss": "7.25", "ppl": "152.22", "wps": "3000", "ups": "1.5", "wpb": "2000", "bsz": "8", "num_updates": "10", "lr": "0.001", "gnorm": "1.2", "clip": "100", "train_wall": "9", "wall": "36"}
2026-11-20 10:00:20 | INFO | train_inner | {"epoch": 1, "update": 0.01, "loss": "5.5", "nll_loss": "5", "ppl": "32", "wps": "3000", "ups": "1.5", "wpb": "2100", "bsz": "8", "num_updates": "20", "lr": "0.001", "gnorm": "1.1", "clip": "100", "train_wall": "9", "wall": "72"}
2026-11-20 10:00:22 | INFO | valid | {"epoch": 1, "valid_loss": "5.75", "valid_nll_loss": "5.5", "valid_ppl": "45.25", "valid_wps": "9000", "valid_wpb": "2048", "valid_bsz": "8", "valid_num_updates": "15", "valid_best_loss": "5.75"}
2026-11-20 10:00:23 | INFO | train | {"epoch": 1, "train_loss": "6.5", "train_nll_loss": "6.125", "train_ppl": "69.79", "train_wpb": "2048", "train_num_updates": "20", "train_wall": "73"}
"""


@pytest.fixture
def log(tmp_path):
    """A function that writes a log and returns its path."""

    def write(text, name="run.log"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def draw(*arguments):
    parser = argparse.ArgumentParser()
    plot.add_arguments(parser)
    return plot.run(parser.parse_args([str(argument) for argument in arguments]))


def refused(*arguments):
    """The line with which the command refuses."""
    with pytest.raises(SystemExit) as refusal:
        draw(*arguments)
    line = str(refusal.value)
    assert line.startswith("fairseq_srupp plot: ") and "\n" not in line
    return line


def curves(path, metric, x):
    return {label: (at, values) for label, _, at, values in plot.curves_of(plot.read_run(str(path), "r"), "", metric, x)}


@pytest.mark.parametrize("text", [SIMPLE, JSON], ids=["simple", "json"])
def test_both_formats_say_the_same(log, text):
    path = log(text)
    assert curves(path, "loss", "updates") == {"r, train": ([10, 20], [7.5, 5.5]), "r, valid": ([15], [5.75])}
    assert curves(path, "bits", "tokens") == {
        "r, train": ([20000, 41000], [7.25, 5]),
        "r, valid": ([30500], [5.5]),
    }
    assert curves(path, "ppl", "hours") == {
        "r, train": ([0.01, 0.02], [152.22, 32]),
        "r, valid": ([pytest.approx(0.015)], [45.25]),
    }
    minutes = curves(path, "ppl", "minutes")
    assert minutes["r, train"][0] == pytest.approx([0.6, 1.2]) and minutes["r, valid"][0] == pytest.approx([0.9])
    assert curves(path, "lr", "updates") == {"r, train": ([10, 20], [0.001, 0.001])}


def test_bits_are_the_loss_where_nothing_is_smoothed(log):
    path = log(re.sub(r"nll_loss=[\d.]+, |nll_loss [\d.]+ \| ", "", SIMPLE))
    assert curves(path, "bits", "updates") == {"r, train": ([10, 20], [7.5, 5.5]), "r, valid": ([15], [5.75])}


def test_epoch_lines_stand_in_for_missing_inner_ones(log):
    path = log("".join(line for line in SIMPLE.splitlines(keepends=True) if "train_inner" not in line))
    assert curves(path, "loss", "tokens") == {"r, train": ([40960], [6.5]), "r, valid": ([30720], [5.75])}


def test_a_resumed_run_continues_its_clock_and_replaces_what_it_did_again(log):
    again = SIMPLE.replace("num_updates=20", "num_updates=30").replace("num_updates=10", "num_updates=20")
    path = log(SIMPLE + again.replace("loss=7.5", "loss=6.5"))
    drawn = curves(path, "loss", "hours")
    assert drawn["r, train"] == (pytest.approx([0.01, 0.02, 0.03]), [7.5, 6.5, 5.5])


def test_validation_sets_are_told_apart(log):
    path = log(SIMPLE + SIMPLE.splitlines()[3].replace("'valid'", "'valid1'").replace("loss 5.75", "loss 4"))
    drawn = curves(path, "loss", "updates")
    assert drawn["r, valid valid"] == ([15], [5.75]) and drawn["r, valid valid1"] == ([15], [4])


def test_picture_of_several_runs(log, tmp_path):
    first, second = log(SIMPLE, "one/train.log"), log(JSON, "two/train.log")
    output = tmp_path / "curves.svg"
    assert draw(first, second.parent, "--metric", "bits", "--x", "hours", "--output", output) == 0
    words = re.findall(r">([^<>\n]+)</text>", output.read_text())
    assert {
        "one, train (5 at the end)",
        "one, valid (5.5 at the end)",
        "two, train (5 at the end)",
        "two, valid (5.5 at the end)",
        "hours",
        "bits per token",
    } <= set(words)

    output = tmp_path / "curves.png"
    assert draw(first, "--label", "mine", "--output", output) == 0
    assert output.read_bytes().startswith(b"\x89PNG") and output.stat().st_size > 5000


def test_picture_of_validation_alone(log, tmp_path):
    output = tmp_path / "curves.svg"
    assert draw(log(SIMPLE), "--valid-only", "--output", output) == 0
    texts = re.findall(r">([^<>\n]+)</text>", output.read_text())
    assert [text for text in texts if "at the end" in text] == ["run, valid (5.75 at the end)"]
    trained = log("".join(line for line in SIMPLE.splitlines(keepends=True) if "| valid" not in line))
    assert f"{trained}: no loss of a validation set in it" in refused(
        log(SIMPLE, "both.log"), trained, "--valid-only", "--output", output
    )


@pytest.mark.parametrize("label", ["$x", "$x$", r"$\frac$", "_x"])
def test_a_label_is_text(label, log, tmp_path):
    output = tmp_path / "curves.svg"
    assert draw(log(SIMPLE), "--label", label, "--output", output) == 0
    texts = re.findall(r">([^<>\n]+)</text>", output.read_text())
    assert {text.split(",")[0] for text in texts if "at the end" in text} == {label}


def test_refusals_are_one_line_and_leave_nothing(log, tmp_path):
    good, output = log(SIMPLE), tmp_path / "curves.png"
    assert f"{tmp_path}/none.log: No such file" in refused(tmp_path / "none.log", "--output", output)
    assert f"{tmp_path}/train.log: No such file" in refused(tmp_path, "--output", output)
    for text in (
        "",
        "Dear diary, training | valid | was hard\n",
        SIMPLE.splitlines()[0],
        "\0\1\2 | train_inner | {broken",
    ):
        assert "no statistics of a fairseq training" in refused(log(text, "bad.log"), "--output", output)
    assert "no bleu in it; it has" in refused(good, "--metric", "bleu", "--output", output)
    assert "2 --label for 1 run(s)" in refused(good, "--label", "a", "--label", "b", "--output", output)
    only_valid = log(SIMPLE.splitlines()[3], "valid.log")
    assert "to tell tokens from" in refused(only_valid, "--x", "tokens", "--output", output)
    assert not output.exists()
    assert "must end in .png or .svg" in refused(good, "--output", tmp_path / "curves.gif")
    assert "No such file" in refused(good, "--output", tmp_path / "none" / "curves.png")
