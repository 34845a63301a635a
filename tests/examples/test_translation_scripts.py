"""The translation example, from plain text to BLEU, on a text of a few words."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from fairseq_srupp.compat.user_dir import PACKAGE_DIR

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "translation"
TINY = (
    "--hidden-size 16 --attention-dim 8 --embed-dim 8 --encoder-layers 1 --decoder-layers 1 --attention-every-n-layers 1".split()
)


def environment(commands=None):
    """In which the scripts find the commands of this Python's installation, but for those that the folder `commands` has."""
    folders = [*([str(commands)] if commands else []), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {**os.environ, "PATH": os.pathsep.join(folders), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def script(name, *arguments, commands=None):
    command = ["bash", str(SCRIPTS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(commands), timeout=300)


def put(folder, name, text):
    """A command of this name that stands for one of fairseq's."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}")
    (folder / name).chmod(0o755)
    return folder


def prefixes(folder):
    return [folder / split for split in ("train", "valid", "test")]


def generate(data, checkpoint, *options):
    command = [sys.executable, "-m", "fairseq_cli.generate", data, "--user-dir", PACKAGE_DIR, "--path", checkpoint, "--cpu"]
    command += ["--max-source-positions", 4000, "--max-target-positions", 4000]
    done = subprocess.run([*map(str, [*command, *options])], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder of parallel text: numbers in German and English. The last line of the test set is very long."""
    folder = tmp_path_factory.mktemp("text")
    words = {"de": "null eins zwei drei vier fünf sechs".split(), "en": "zero one two three four five six".split()}
    digits = random.Random(1)
    for split, size in (("train", 200), ("valid", 20), ("test", 30)):
        lines = [[digits.randrange(7) for _ in range(digits.randint(2, 6))] for _ in range(size)]
        if split == "test":
            lines[-1] *= 50
        for lang, names in words.items():
            (folder / f"{split}.{lang}").write_text("".join(" ".join(names[n] for n in line) + ".\n" for line in lines))
    return folder


def test_from_text_to_bleu(text, tmp_path):
    data, run = tmp_path / "data", tmp_path / "run"
    for _ in range(2):  # the second time over its own results
        prepared = script("prepare.sh", "de", "en", *prefixes(text), data, 50)
        assert prepared.returncode == 0, prepared.stderr
    assert (data / "dict.de.txt").read_text() == (data / "dict.en.txt").read_text()

    trained = script("train.sh", "de", "en", data, run, *TINY, "--cpu", "--max-update", 4, "--max-tokens", 300)
    assert trained.returncode == 0, trained.stderr
    assert "SRUppTransformer" in trained.stdout and (run / "train.log").read_text() == trained.stdout

    scored = script("evaluate.sh", "de", "en", data, run / "checkpoint_last.pt", "--beam", 2, "--cpu")
    assert scored.returncode == 0, scored.stderr
    assert re.search(r"^Translated 30 sentences \(.* sentences/s", scored.stdout, re.MULTILINE)
    assert re.search(r"^BLEU\|nrefs:1\|case:mixed\|eff:no\|tok:13a.* = \d", scored.stdout, re.MULTILINE)
    assert len((run / "checkpoint_last.test.en").read_text().splitlines()) == 30
    for kind, line in (("hard", r"^A-\d+\t(\d+-\d+ ?)+$"), ("soft", r"^A-\d+\t[\d.]+(,[\d.]+)* ")):
        aligned = generate(data, run / "checkpoint_last.pt", "--print-alignment", kind, "--nbest", 2, "--beam", 3)
        assert len(re.findall(line, aligned, re.MULTILINE)) >= 30
    assert (data / "bpe" / "reference.en").read_text() == (text / "test.en").read_text()

    other = tmp_path / "other"
    assert script("prepare.sh", "de", "en", *prefixes(text), other, 70).returncode == 0
    refused = script("evaluate.sh", "de", "en", other, run / "checkpoint_last.pt", "--cpu")
    assert refused.returncode == 1 and not (run / "checkpoint_last.test.txt").exists()
    assert "it was made with another dictionary" in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_lines_end_at_newlines_alone(text, tmp_path):
    """A carriage return within a line, or a last line without an end, moves no line against those of the other language."""
    for lang in ("de", "en"):
        for split in ("train", "valid", "test"):
            too_long = "1 " * 3000 + "\n"  # for training of SentencePiece, which leaves it out without a word
            whole = too_long + (text / f"{split}.{lang}").read_text().rstrip("\n")
            (tmp_path / f"{split}.{lang}").write_bytes(f"{whole}\r{whole[:5]}".encode() + b"\n" * (lang == "en"))
    data = tmp_path / "data"
    prepared = script("prepare.sh", "de", "en", *prefixes(tmp_path), data, 50)
    assert prepared.returncode == 0 and not prepared.stderr, prepared.stderr
    lines = {lang: (data / "bpe" / f"train.{lang}").read_text().splitlines() for lang in ("de", "en")}
    assert len(lines["de"]) == len(lines["en"]) == 201


def test_bad_input_is_one_line(text, tmp_path):
    (tmp_path / "short.de").write_text("eins\n")
    (tmp_path / "short.en").write_text("one\ntwo\n")
    for lang in ("de", "en"):
        rubbish = (text / f"train.{lang}").read_bytes() + b"\x00\xff\xfe rubbish\n"
        (tmp_path / f"rubbish.{lang}").write_bytes(rubbish)
        (tmp_path / f"nul.{lang}").write_bytes((text / f"test.{lang}").read_bytes() + b"nu\x00ll\n")
    data, own = tmp_path / "data", tmp_path / "own" / "bpe"
    own.mkdir(parents=True)
    (own / "notes.txt").touch()
    cases = [
        (["prepare.sh", "de", "en", text / "train", text / "nowhere", text / "test", data], "nowhere.de is missing"),
        (["prepare.sh", "de", "en", text / "train", tmp_path / "short", text / "test", data], "short.en has 2"),
        (["prepare.sh", "de", "en", *prefixes(text), data, 9999], "Vocabulary size too high"),
        (["prepare.sh", "de", "en", *prefixes(text), data, "8k"], "VOCAB is no whole number: 8k"),
        (
            ["prepare.sh", "de", "en", tmp_path / "rubbish", text / "valid", text / "test", data, 50],
            "rubbish.de, line 201: not UTF-8",
        ),
        (["prepare.sh", "de", "en", *prefixes(text), own.parent, 50], "own/bpe holds something else"),
        (["prepare.sh", "de", "en", text / "train", text / "valid", tmp_path / "nul", data, 50], "nul.de, line 31: a NUL byte"),
        (["prepare.sh", "de", "en", *prefixes(text), tmp_path / "a,b", 50], "a comma or colon"),
        (["prepare.sh", "de", "en", *prefixes(text), own / "notes.txt" / "data", 50], "Not a directory"),
        (["train.sh", "de", "en", data, tmp_path / "run"], "data/dict.de.txt is missing: run prepare.sh"),
        (["evaluate.sh", "de", "en", data, tmp_path / "none.pt"], "none.pt is missing"),
    ]
    for arguments, message in cases:
        refused = script(*arguments)
        assert refused.returncode == 1 and message in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1, refused.stderr
    assert not any((tmp_path / name).exists() for name in ("data", "run", "a,b")) and (own / "notes.txt").exists()


@pytest.mark.parametrize("name, needed", [("prepare.sh", 6), ("train.sh", 4), ("evaluate.sh", 4), ("compare.sh", 4)])
def test_arguments_that_are_missing_or_empty(tmp_path, name, needed):
    """An empty folder would be the root of the file system."""
    whole = [tmp_path / "none"] * needed
    for arguments in (whole[1:], *([*whole[:n], "", *whole[n + 1 :]] for n in range(needed))):
        refused = script(name, *arguments)
        assert refused.returncode == 2 and refused.stderr.splitlines()[1].startswith(f"{name} SRC TGT "), refused.stderr
    assert not list(tmp_path.iterdir())


def test_preparation_that_fails_leaves_nothing(text, tmp_path):
    commands = put(tmp_path / "bin", "fairseq-preprocess", "echo Traceback >&2; echo 'OSError: No space left' >&2; exit 1\n")
    refused = script("prepare.sh", "de", "en", *prefixes(text), tmp_path / "data", 50, commands=commands)
    assert refused.returncode == 1 and not (tmp_path / "data").exists()
    assert refused.stderr == "prepare.sh: fairseq-preprocess failed: OSError: No space left\n"


def test_preparation_that_is_killed_ends_its_commands(text, tmp_path):
    writes = f"sleep 2; mkdir -p {tmp_path}/data/unfinished"
    commands = put(tmp_path / "bin", "fairseq-preprocess", f"({writes}) &\ntouch {tmp_path}/started\n{writes}\n")
    command = ["bash", SCRIPTS / "prepare.sh", "de", "en", *prefixes(text), tmp_path / "data", "50"]
    run = subprocess.Popen(command, env=environment(commands), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
    run.terminate()
    assert run.communicate() == (None, b"") and run.returncode == -signal.SIGTERM
    time.sleep(2.5)
    assert not (tmp_path / "data").exists()


@pytest.fixture
def dictionaries(tmp_path):
    """A folder with what train.sh needs, where fairseq-train is another command."""
    (tmp_path / "data").mkdir()
    for lang in ("de", "en"):
        (tmp_path / "data" / f"dict.{lang}.txt").write_text("1 1\n")
    return tmp_path / "data"


def test_a_run_that_goes_on_keeps_its_log(dictionaries, tmp_path):
    commands = put(tmp_path / "bin", "fairseq-train", "echo $*\n")
    for updates in (1, 2):
        assert script("train.sh", "de", "en", dictionaries, tmp_path / "run", updates, commands=commands).returncode == 0
    assert [line.split()[-1] for line in (tmp_path / "run" / "train.log").read_text().splitlines()] == ["1", "2"]
    (tmp_path / "file").touch()
    refused = script("train.sh", "de", "en", dictionaries, tmp_path / "file" / "run", commands=commands)
    assert refused.returncode == 1 and re.fullmatch("train.sh: cannot create directory .*: Not a directory\n", refused.stderr)


# Prints what it is to train, and lines of fairseq-train.
TRAINS = r"""
while [ $# -gt 0 ]; do
  case $1 in --arch) arch=$2 ;; --max-update) updates=$2 ;; --save-dir) dir=$2 ;; esac
  shift
done
echo "$arch, $updates updates"
case $arch:$updates in
  transformer:$FAILS) echo "fairseq_srupp: no memory, $(grep -c memory "$dir/train.log")"; echo more; exit 1 ;;
  srupp_transformer:$FAILS) sleep 1.5; touch "$dir/went_on" ;;
esac
echo "2026-01-01 00:00:00 | INFO | train_inner | epoch 001: 50 / 514 loss=9.9, ups=2.5, num_updates=50, train_wall=45, wall=46"
echo "2026-01-01 00:00:00 | INFO | fairseq_cli.train | done training in 12.3 seconds"
cp "$(dirname "$0")/checkpoint_last.pt" "$dir"
cp "$dir/checkpoint_last.pt" "$dir/checkpoint_best.pt"
"""


@pytest.fixture
def compare(dictionaries, tmp_path, monkeypatch):
    """compare.sh with commands that train and translate nothing; training for FAILS updates fails."""
    (dictionaries / "bpe").mkdir()
    (dictionaries / "bpe" / "reference.en").write_text("one\ntwo\n")
    commands = put(tmp_path / "bin", "fairseq-train", TRAINS)
    torch.save({"extra_state": {"previous_training_time": 75.4}}, commands / "checkpoint_last.pt")
    put(commands, "fairseq-generate", r"printf 'H-1\t-1\ttwo\nH-0\t-1\tone\nTranslated 2 sentences\n'")

    def run(minutes="0.04", fails="none"):
        monkeypatch.setenv("MINUTES", minutes)
        monkeypatch.setenv("FAILS", fails)
        return script("compare.sh", "de", "en", dictionaries, tmp_path / "out", commands=commands)

    return run


def test_comparison(compare, tmp_path):
    """It goes on with what was not finished; the time is that of all parts."""
    done = compare()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("updates: 5 and 5\nsrupp_transformer: trained for 75 seconds\nTranslated 2")  # 2.5 a second
    assert "\ntransformer: trained for 75 seconds\n" in done.stdout and done.stdout.count("BLEU|nrefs:1") == 2
    logs = [tmp_path / "out" / model / "train.log" for model in ("srupp_transformer", "transformer")]
    logs[1].write_text(logs[1].read_text().replace("done training", "stopped"))
    other = compare(minutes="9")
    assert other.returncode == 1 and "has a comparison with MINUTES=" in other.stderr and len(other.stderr.splitlines()) == 1
    again = compare()
    assert again.stdout == done.stdout and [log.read_text().count(", 5 updates") for log in logs] == [1, 2]


@pytest.mark.parametrize("updates, folder", [("100", "out/trial"), ("5", "out")])
def test_comparison_of_which_one_training_fails(compare, tmp_path, updates, folder):
    for earlier in (0, int(folder == "out")):  # the trial begins anew
        failed = compare(fails=updates)
        log = tmp_path / folder / "transformer" / "train.log"
        assert failed.returncode == 1
        assert failed.stderr == f"compare.sh: training failed, see {log}: fairseq_srupp: no memory, {earlier}\n"
    time.sleep(1.6)
    assert not (tmp_path / folder / "srupp_transformer" / "went_on").exists()


def test_comparison_without_what_it_needs(compare, tmp_path):
    assert compare(minutes="soon").stderr == "compare.sh: MINUTES is no number: soon\n"
    (tmp_path / "data" / "bpe" / "reference.en").unlink()
    assert compare().stderr == f"compare.sh: {tmp_path}/data/bpe/reference.en is missing: run prepare.sh\n"
    assert not (tmp_path / "out").exists()


@pytest.fixture
def checkpoint(tmp_path):
    """A file of this name; beside it, what evaluate.sh needs of the data."""
    (tmp_path / "data" / "bpe").mkdir(parents=True)
    (tmp_path / "data" / "bpe" / "reference.en").write_text("one\ntwo\n")
    (tmp_path / "best.pt").write_text("weights")
    return tmp_path / "best.pt"


def test_evaluation_of_translations_with_nul_bytes(checkpoint, tmp_path):
    output = r"H-1\t-0.5\ttw\0o\nH-0\t-0.5\tone\nGenerate test: Translated 2 sentences\n"
    commands = put(tmp_path / "bin", "fairseq-generate", f"printf '{output}'\n")
    scored = script("evaluate.sh", "de", "en", tmp_path / "data", checkpoint, commands=commands)
    assert scored.returncode == 0 and "BLEU|nrefs:1" in scored.stdout, scored.stderr
    assert (tmp_path / "best.test.en").read_text() == "one\ntw\0o\n"


@pytest.mark.parametrize(
    "does, message",
    [
        (
            "echo 'usage: fairseq-generate DATA'; echo 'fairseq-generate: error: no --beams'; exit 2",
            "fairseq-generate: error: no --beams",
        ),
        ("echo Traceback; echo 'RuntimeError: out of memory'; exit 1", "RuntimeError: out of memory"),
        ("echo nothing", "fairseq-generate printed no translations"),
    ],
)
def test_evaluation_that_fails_leaves_only_its_log(checkpoint, tmp_path, does, message):
    commands = put(tmp_path / "bin", "fairseq-generate", f"exec >&2; {does}\n")
    refused = script("evaluate.sh", "de", "en", tmp_path / "data", checkpoint, commands=commands)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert refused.stderr.startswith("evaluate.sh: ") and message in refused.stderr
    assert [path.name for path in tmp_path.glob("best.test.*")] == ["best.test.log"]
