"""prepare-bytes: what it writes, what it refuses, and what it leaves when it fails."""

import argparse
import os
import subprocess
import sys

import numpy as np
import pytest
from fairseq.data import Dictionary, data_utils

from fairseq_srupp.cli import prepare_bytes
from fairseq_srupp.data import byte_corpus
from fairseq_srupp.data.byte_symbols import bytes_of

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def prepare(*arguments):
    parser = argparse.ArgumentParser()
    prepare_bytes.add_arguments(parser)
    return prepare_bytes.run(parser.parse_args([str(argument) for argument in arguments]))


def refused(*arguments):
    """The line with which the command refuses."""
    with pytest.raises(SystemExit) as refusal:
        prepare(*arguments)
    line = str(refusal.value)
    assert line.startswith("fairseq_srupp prepare-bytes: ") and "\n" not in line
    return line


def content(destdir, split):
    """The bytes of a split, as fairseq reads them."""
    dictionary = Dictionary.load(os.path.join(destdir, "dict.txt"))
    dataset = data_utils.load_indexed_dataset(os.path.join(destdir, split), dictionary)
    return bytes_of(dictionary[i] for item in range(len(dataset)) for i in dataset[item].tolist())


@pytest.fixture
def texts(tmp_path):
    random = np.random.default_rng(1)
    sizes = {"train": 3 * 4096 + 17, "valid": 4096, "test": 2}
    texts = {split: random.integers(97, 110, size, dtype=np.uint8).tobytes() for split, size in sizes.items()}
    texts["valid"] = bytes(range(256)) * 16
    for split, text in texts.items():
        (tmp_path / split).write_bytes(text)
    return texts


def test_three_files(tmp_path, texts, capsys):
    out = tmp_path / "deep" / "out"
    assert prepare(*[w for s in texts for w in (f"--{s}", tmp_path / s)], "--destdir", out) == 0
    assert {split: content(out, split) for split in texts} == texts
    assert sorted(os.listdir(out)) == sorted(["dict.txt"] + [f"{s}.{kind}" for s in texts for kind in ("bin", "idx")])
    assert "12,305 tokens" in capsys.readouterr().out


def test_one_file_in_parts(tmp_path):
    text = b"abcdefghijklmnop"
    (tmp_path / "all").write_bytes(text)
    prepare("--input", tmp_path / "all", "--split", 7, 4, 3, "--destdir", tmp_path / "out")
    found = [content(tmp_path / "out", split) for split in ("train", "valid", "test")]
    assert found == [b"abcdefg", b"hijk", b"lmn"]


def test_dictionary_is_that_of_the_bytes_seen_in_any_split_by_frequency(tmp_path):
    (tmp_path / "a").write_bytes(b"cc b")
    (tmp_path / "b").write_bytes(b"zb\n")
    prepare("--train", tmp_path / "a", "--test", tmp_path / "b", "--destdir", tmp_path / "out")
    assert (tmp_path / "out" / "dict.txt").read_text() == "b 2\nc 2\n<0x0A> 1\n<0x20> 1\nz 1\n"


@pytest.mark.parametrize("symbols, width", [(251, 1), (252, 1), (253, 2), (256, 2)])
def test_smallest_type_that_fits(tmp_path, symbols, width):
    text = bytes(range(symbols)) * 2
    (tmp_path / "a").write_bytes(text)
    prepare("--train", tmp_path / "a", "--destdir", tmp_path / "out")
    assert os.path.getsize(tmp_path / "out" / "train.bin") == len(text) * width
    assert content(tmp_path / "out", "train") == text


def test_chunks_do_not_show(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(byte_corpus, "_CHUNK", 1000)
    prepare("--train", tmp_path / "train", "--destdir", tmp_path / "out")
    assert content(tmp_path / "out", "train") == texts["train"]


def test_progress_is_shown(tmp_path, texts, capsys):
    prepare("--train", tmp_path / "train", "--destdir", tmp_path / "out")
    shown = capsys.readouterr().err
    assert "counting" in shown and "writing train: 12,305 of 12,305 bytes (100 %)" in shown


def test_other_text_with_the_dictionary_of_earlier_data(tmp_path):
    (tmp_path / "a").write_bytes(b"aaabb c")
    (tmp_path / "b").write_bytes(b"ccc")
    (tmp_path / "c").write_bytes(b"cd")
    prepare("--train", tmp_path / "a", "--destdir", tmp_path / "one")
    dictionary = tmp_path / "one" / "dict.txt"
    prepare("--test", tmp_path / "b", "--dict", dictionary, "--destdir", tmp_path / "two")
    assert (tmp_path / "two" / "dict.txt").read_text() == dictionary.read_text()
    assert content(tmp_path / "two", "test") == b"ccc"
    assert "byte 0x64" in refused("--test", tmp_path / "c", "--dict", dictionary, "--destdir", tmp_path / "three")
    assert "not a fairseq dictionary" in refused(
        "--test", tmp_path / "c", "--dict", tmp_path / "one" / "train.bin", "--destdir", tmp_path / "three"
    )
    assert not (tmp_path / "three").exists()


def test_splits_of_another_dictionary_are_not_mixed(tmp_path):
    (tmp_path / "a").write_bytes(b"aaabb")
    (tmp_path / "b").write_bytes(b"bcc")
    prepare("--train", tmp_path / "a", "--destdir", tmp_path / "out")
    assert "another dictionary" in refused("--test", tmp_path / "b", "--destdir", tmp_path / "out")
    assert content(tmp_path / "out", "train") == b"aaabb"
    prepare("--train", tmp_path / "b", "--destdir", tmp_path / "out")  # nothing of the old data stays
    assert content(tmp_path / "out", "train") == b"bcc"


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--train", "missing"], "missing: no such file"),
        (["--train", "empty"], "empty has 0 byte(s)"),
        (["--train", "one"], "one has 1 byte(s)"),
        (["--train", "."], "no such file"),
        ([], "give --train"),
        (["--input", "ten"], "go together"),
        (["--split", "1", "2", "3"], "go together"),
        (["--input", "ten", "--split", "5", "3", "3"], "is 11 bytes, but ten has 10"),
        (["--input", "ten", "--split", "5", "0", "3"], "at least 1"),
        (["--input", "ten", "--split", "5", "1", "3"], "valid: ten has 1 byte(s)"),
        (["--train", "ten", "--dict", "nowhere"], "nowhere: No such file"),
        (["--train", "ten", "--destdir", "one/out"], "one/out: Not a directory"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    for name, size in (("empty", 0), ("one", 1), ("ten", 10)):
        (tmp_path / name).write_bytes(b"x" * size)
    before = sorted(os.listdir())
    assert reason in refused(*([] if "--destdir" in arguments else ["--destdir", "out"]), *arguments)
    assert sorted(os.listdir()) == before


def test_a_full_disk_leaves_the_old_data(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"aaabb")
    prepare("--train", tmp_path / "a", "--destdir", tmp_path / "out")

    def write(*_):
        raise OSError(28, "No space left on device", "train.bin")

    monkeypatch.setattr(byte_corpus, "_write_split", write)
    (tmp_path / "b").write_bytes(b"xyz")
    assert "No space left" in refused("--train", tmp_path / "b", "--destdir", tmp_path / "out")
    assert "No space left" in refused("--train", tmp_path / "b", "--destdir", tmp_path / "new")
    assert content(tmp_path / "out", "train") == b"aaabb"
    assert not (tmp_path / "new").exists()
    assert sorted(os.listdir(tmp_path / "out")) == ["dict.txt", "train.bin", "train.idx"]


def test_a_file_that_shrinks_is_noticed(tmp_path):
    (tmp_path / "a").write_bytes(b"aaabb")
    with pytest.raises(ValueError, match="changed while it was read"):
        byte_corpus.count_bytes(byte_corpus.ByteRange(str(tmp_path / "a"), 0, 6), lambda *_: None)
    lines = byte_corpus.dictionary_lines(np.bincount([97], minlength=256))
    source = byte_corpus.ByteRange(str(tmp_path / "a"), 0, 5)
    with pytest.raises(ValueError, match="changed while it was read"):
        byte_corpus.write_corpus({"train": source}, lines, str(tmp_path / "out"), lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_neither_torch_nor_fairseq_is_waited_for():
    code = "import sys, fairseq_srupp.cli.prepare_bytes; print({'torch', 'fairseq'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert found.stdout == "set()\n"


KILLED = """
import os, sys
from fairseq_srupp.data import byte_corpus
from fairseq_srupp.data.byte_corpus import ByteRange, count_bytes, dictionary_lines, write_corpus
path, out, survives = sys.argv[1], sys.argv[2], int(sys.argv[3])
def dying(name):
    original = getattr(os, name)
    def call(*arguments):
        global survives
        if survives == 0:
            os._exit(9)
        survives -= 1
        return original(*arguments)
    setattr(os, name, call)
dying("replace"), dying("remove")
source = ByteRange(path, 0, os.path.getsize(path))
write_corpus({"train": source}, dictionary_lines(count_bytes(source, lambda *_: None)), out, lambda *_: None)
"""


@pytest.mark.parametrize("survives", range(5))
def test_a_kill_leaves_old_data_new_data_or_none(tmp_path, survives):
    old, new, out = b"aaabb", b"xyzzy!", tmp_path / "out"
    (tmp_path / "a").write_bytes(old)
    (tmp_path / "b").write_bytes(new)
    prepare("--train", tmp_path / "a", "--destdir", out)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "b"), str(out), str(survives)]
    killed = subprocess.run(command, cwd=REPOSITORY)
    assert killed.returncode == (9 if survives < 4 else 0)
    if (out / "dict.txt").exists():
        assert content(out, "train") == (old if survives == 0 else new)
    else:
        assert 0 < survives < 4
    prepare("--train", tmp_path / "b", "--destdir", out)
    assert content(out, "train") == new
    assert sorted(os.listdir(out)) == ["dict.txt", "train.bin", "train.idx"]
