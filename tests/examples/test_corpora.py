"""The data of the paper's language models, from tiny archives of the same form."""

import hashlib
import io
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from fairseq.data import Dictionary, indexed_dataset

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SPLITS = ("train", "valid", "test")


def environment(**variables):
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    settings = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "WORKERS": "1", **variables}
    return {**os.environ, **{name: str(value) for name, value in settings.items()}}


def prepare(corpus, *arguments, **variables):
    command = ["bash", str(EXAMPLES / corpus / "prepare.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment(**variables), timeout=120)


def prepared(*arguments, **variables):
    run = prepare(*arguments, **variables)
    assert run.returncode == 0, run.stderr
    return run.stdout


def assert_refused(run, *words):
    """One line on stderr that holds these words, exit status 1."""
    assert run.returncode == 1 and run.stderr.count("\n") == 1, run.stderr
    assert all(str(word) in run.stderr for word in words), run.stderr


def sentences(data, split):
    """The lines of a split as fairseq reads them."""
    words = Dictionary.load(str(data / "dict.txt"))
    items = indexed_dataset.make_dataset(str(data / split), "mmap")
    assert all(item[-1] == words.eos() for item in items)
    return [words.string(item) for item in items]


@pytest.fixture
def serve():
    """A function that serves a folder and returns its address."""
    servers = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def start(folder):
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def described(prefix, archive):
    """Length and checksum of an archive, as the scripts take them."""
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    return {f"{prefix}_BYTES": archive.stat().st_size, f"{prefix}_SHA256": sha256}


@pytest.mark.parametrize("corpus", ["enwik8", "wiki103", "lm1b"])
def test_wrong_number_of_arguments_is_usage(corpus):
    for arguments in ([], ["one", "two", "three"]):
        run = prepare(corpus, *arguments)
        assert run.returncode == 2 and "prepare.sh OUT [" in run.stderr and not run.stdout


# enwik8


@pytest.fixture
def enwik8(tmp_path):
    """A folder with a tiny enwik8 and enwik8.zip, and the variables that tell about them."""
    (tmp_path / "in").mkdir()
    text = b"<mediawiki>" + bytes(random.Random(1).randrange(1, 200) for _ in range(989))
    plain, packed = tmp_path / "in" / "enwik8", tmp_path / "in" / "enwik8.zip"
    plain.write_bytes(text)
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(plain, "enwik8")
    known = {"ENWIK8_SHA1": hashlib.sha1(text).hexdigest(), "ENWIK8_SYMBOLS": len(set(text))}
    return plain, packed, {**known, "ENWIK8_SPLIT": "900 50 50", **described("ENWIK8_ZIP", packed)}


def test_enwik8(enwik8, tmp_path, serve):
    plain, packed, known = enwik8
    known["ENWIK8_URL"] = f"{serve(plain.parent)}/enwik8.zip"
    for number, source in enumerate(([plain], [packed], [])):
        out = tmp_path / str(number)
        (out / "unfinished" / "data").mkdir(parents=True)  # left by a run that was killed
        assert f"data in {out}/data" in prepared("enwik8", out, *source, **known)
        sizes = [(out / "data" / f"{split}.bin").stat().st_size for split in SPLITS]
        assert sizes == [900, 50, 50]
        assert sorted(os.listdir(out)) == (["data"] if source else ["data", "enwik8.zip"])
        assert "already there" in prepared("enwik8", out, *source, **known)


def test_enwik8_of_another_form(enwik8, tmp_path):
    plain, packed, known = enwik8
    bad = tmp_path / "bad"
    out = tmp_path / "out"
    text, archive = plain.read_bytes(), packed.read_bytes()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("text8", "text")
    for content, words in [
        (text[:-1], ["999 bytes instead of 1000"]),
        (bytes(1000), ["SHA-1"]),
        (archive[:-100], ["broken zip"]),
        ((tmp_path / "other.zip").read_bytes(), ["no enwik8"]),
    ]:
        bad.write_bytes(content)
        assert_refused(prepare("enwik8", out, bad, **known), bad, *words)
    assert_refused(prepare("enwik8", out, tmp_path / "nowhere", **known), "nowhere is missing")
    symbols = known.pop("ENWIK8_SYMBOLS")
    run = prepare("enwik8", out, plain, **known)
    assert run.returncode == 1 and run.stderr.endswith(f"{symbols} different bytes instead of 205\n")
    assert not out.exists()


# WikiText


WIKITEXT = {
    "train": " \n = A = \n \n the cat <unk> the dog \n",
    "valid": " the <unk> \n",
    "test": " \n the dog <unk> = \n",
}
WORDS = 7  # = A the cat dog <unk> <eos>


@pytest.fixture
def wikitext(tmp_path):
    """A folder with tiny files of WikiText's names and a zip file of it."""
    folder = tmp_path / "in" / "wikitext-103"
    folder.mkdir(parents=True)
    packed = tmp_path / "in" / "wikitext-103-v1.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for split, text in WIKITEXT.items():
            (folder / f"wiki.{split}.tokens").write_text(text)
            archive.write(folder / f"wiki.{split}.tokens", f"wikitext-103/wiki.{split}.tokens")
    return folder, packed


def stub_of_preprocess(folder, body):
    """A folder for PATH with a fairseq-preprocess that begins to write and then does as told."""
    folder.mkdir()
    stub = folder / "fairseq-preprocess"
    stub.write_text(f'#!/bin/bash\nwhile [ "$1" != --destdir ]; do shift; done; mkdir "$2"; echo A 1 > "$2/dict.txt"\n{body}\n')
    stub.chmod(0o755)
    return os.pathsep.join((str(folder), environment()["PATH"]))


def test_wikitext_after_a_run_that_was_killed(wikitext, tmp_path, serve):
    folder, packed = wikitext
    out = tmp_path / "out"
    known = {"WIKITEXT_WORDS": WORDS, "WIKITEXT_URL": f"{serve(packed.parent)}/{packed.name}", **described("WIKITEXT", packed)}
    slow = environment(**{**known, "PATH": stub_of_preprocess(tmp_path / "slow", "sleep 60")})
    run = subprocess.Popen(
        ["bash", EXAMPLES / "wiki103" / "prepare.sh", out, folder], env=slow, start_new_session=True, stdout=subprocess.DEVNULL
    )
    while not (out / "unfinished" / "data" / "dict.txt").exists():
        assert run.poll() is None
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert os.listdir(out) == ["unfinished"]

    assert f"{WORDS} words" in prepared("wiki103", out, **known)
    assert sorted(os.listdir(out)) == ["data", packed.name]
    for split, text in WIKITEXT.items():
        assert sentences(out / "data", split) == [" ".join(line.split()) for line in text.splitlines()]
    before = (out / "data" / "train.bin").stat().st_mtime_ns
    assert "already there" in prepared("wiki103", out, folder, **known)
    assert (out / "data" / "train.bin").stat().st_mtime_ns == before


def test_wikitext_of_another_form(wikitext, tmp_path):
    folder, packed = wikitext
    out = tmp_path / "out"
    known = {"WIKITEXT_WORDS": WORDS}
    assert_refused(prepare("wiki103", out, folder), "wiki.train.tokens is not WikiText-103's")
    few = stub_of_preprocess(tmp_path / "few", "")
    assert_refused(prepare("wiki103", out, folder, **known, PATH=few), "3 words instead of 7")
    broken = stub_of_preprocess(tmp_path / "broken", "echo no space left; exit 1")
    assert_refused(prepare("wiki103", out, folder, **known, PATH=broken), "fairseq-preprocess: no space left")
    (folder / "wiki.test.tokens").unlink()
    assert_refused(prepare("wiki103", out, folder, **known), "wiki.test.tokens is missing")
    assert_refused(prepare("wiki103", out, tmp_path / "nowhere", **known), "nowhere is missing")
    packed.write_bytes(packed.read_bytes()[:-100])
    assert_refused(prepare("wiki103", out, packed, **known), packed, "broken")
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("wiki.txt", "text")
    assert_refused(prepare("wiki103", out, packed, **known), packed, "no wiki.train.tokens")
    assert not out.exists()


# One Billion Word


TRAIN = [f"training-monolingual.tokenized.shuffled/news.en-{n:05}-of-00100" for n in range(1, 100)]
HELDOUT = [f"heldout-monolingual.tokenized.shuffled/news.en.heldout-{n:05}-of-00050" for n in range(3)]


@pytest.fixture(scope="module")
def lm1b():
    """Tiny files of the benchmark's names: every sentence is another; some words are rare, one holds a no-break space."""
    draw = random.Random(1)
    files = {}
    for number, name in enumerate(TRAIN + HELDOUT):
        lines = [f"sentence {number}-{i}" for i in range(draw.randrange(3, 9))]
        files[name] = "".join(
            f"{line} {' '.join(draw.choices('abcdefgé', k=3))} 10\u00a0000 {draw.randrange(200)}\n" for line in lines
        )
    return files


def archive_of(files, path):
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"1-billion-word-language-modeling-benchmark-r13output/{name}")
            content = text.encode(errors="surrogateescape")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def known_of(files):
    """The tokens of each split, as the variable takes them, the training text, and its words that are not rare."""
    train = "".join(files[name] for name in TRAIN).split("\n")[:-1]
    words = [word for line in train for word in line.split(" ")]
    tokens = [len(words) + len(train)]
    tokens += [sum(len(line.split(" ")) + 1 for line in files[name].split("\n")[:-1]) for name in (HELDOUT[1], HELDOUT[0])]
    frequent = {word for word in words if words.count(word) >= 3}
    return {"LM1B_TOKENS": " ".join(map(str, tokens))}, train, frequent


def test_lm1b(lm1b, tmp_path, serve):
    (tmp_path / "in").mkdir()
    packed = archive_of(lm1b, tmp_path / "in" / "1-billion-word-language-modeling-benchmark-r13output.tar.gz")
    known, train, frequent = known_of(lm1b)
    out = tmp_path / "out"
    (out / "unfinished" / "text").mkdir(parents=True)  # left by a run that was killed
    known |= {"LM1B_URL": f"{serve(packed.parent)}/{packed.name}", **described("LM1B", packed)}
    run = prepare("lm1b", out, **known)
    assert run.returncode == 0, run.stderr
    assert f"{len(frequent) + 3} words, where the field counts 793471" in run.stderr
    assert sorted(os.listdir(out)) == [packed.name, "data"]
    assert "already there" in prepared("lm1b", out, packed)

    def with_unknowns(lines):
        return [" ".join(word if word in frequent else "<unk>" for word in line.split(" ")) for line in lines]

    assert sentences(out / "data", "test") == with_unknowns(lm1b[HELDOUT[0]].splitlines())
    assert sentences(out / "data", "valid") == with_unknowns(lm1b[HELDOUT[1]].splitlines())
    assert sentences(out / "data", "train") == with_unknowns(train)


def encode(files, folder, workers=1, least=1):
    """The data that encode.py writes, as a dictionary of files."""
    (folder / "data").mkdir(parents=True)
    paths = []
    for name, text in files.items():
        paths.append(folder / Path(name).name)
        paths[-1].write_text(text)
    command = [sys.executable, EXAMPLES / "lm1b" / "encode.py", "--train", *paths[:-2], "--valid", paths[-2], "--test", paths[-1]]
    command += ["--destdir", folder / "data", "--workers", workers, "--least", least]
    run = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment(), timeout=120)
    assert run.returncode == 0, run.stderr
    return {path.name: path.read_bytes() for path in (folder / "data").iterdir()}


def test_lm1b_does_not_depend_on_the_number_of_processes(lm1b, tmp_path):
    few = {name: lm1b[name] for name in (*TRAIN[:12], *HELDOUT[:2])}
    assert encode(few, tmp_path / "one") == encode(few, tmp_path / "two", workers=2)


def test_lm1b_is_what_fairseq_would_write(lm1b, tmp_path):
    text = {name: lm1b[name].replace("\u00a0", "") for name in (TRAIN[0], *HELDOUT[:2])}  # fairseq splits words there
    encode(text, tmp_path / "ours", least=2)
    words = Dictionary()
    Dictionary.add_file_to_dictionary(str(tmp_path / "ours" / Path(TRAIN[0]).name), words, str.split, 1)
    words.finalize(threshold=2, padding_factor=1)
    words.save(str(tmp_path / "dict.txt"))
    assert (tmp_path / "dict.txt").read_bytes() == (tmp_path / "ours" / "data" / "dict.txt").read_bytes()
    for split, name in (("train", TRAIN[0]), ("test", HELDOUT[1])):
        builder = indexed_dataset.MMapIndexedDatasetBuilder(str(tmp_path / f"{split}.bin"), np.int32)
        for line in text[name].splitlines():
            builder.add_item(words.encode_line(line, str.split, add_if_not_exist=False))
        builder.finalize(str(tmp_path / f"{split}.idx"))
        for file in (f"{split}.bin", f"{split}.idx"):
            assert (tmp_path / file).read_bytes() == (tmp_path / "ours" / "data" / file).read_bytes()


def test_lm1b_of_another_form(lm1b, tmp_path):
    out = tmp_path / "out"
    whole = archive_of(lm1b, tmp_path / "whole.tar.gz")
    known, *_ = known_of(lm1b)
    bad = tmp_path / "bad.tar.gz"
    bad.write_bytes(whole.read_bytes()[:-1000])
    assert_refused(prepare("lm1b", out, bad, **known), bad, "broken")
    bad.write_text("no archive\n")
    assert_refused(prepare("lm1b", out, bad, **known), bad, "broken")
    for name, words in ((TRAIN[50], "98 files"), (HELDOUT[0], "lacks news.en.heldout-00000-of-00050")):
        archive_of({other: text for other, text in lm1b.items() if other != name}, bad)
        assert_refused(prepare("lm1b", out, bad, **known), bad, words)
    assert_refused(prepare("lm1b", out, whole), whole, "tokens for train instead of 798949912")
    assert_refused(prepare("lm1b", out, tmp_path / "nowhere"), "nowhere is missing")
    archive_of({**lm1b, TRAIN[0]: 3 * "\udcff\n"}, bad)
    assert_refused(prepare("lm1b", out, bad, **known), "the text is not UTF-8: b'\\xff'")
    assert not out.exists()
