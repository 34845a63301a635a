"""IWSLT'14 from an archive of the campaign's form to BLEU."""

import hashlib
import io
import os
import random
import re
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples" / "iwslt14_de_en"
REAL = ROOT.parent / "shared" / "data" / "iwslt14"
SETS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
ESCAPES = {"&quot;": '"', "&apos;": "'", "&lt;": "<", "&gt;": ">", "&#91;": "[", "&#93;": "]", "&#124;": "|", "&amp;": "&"}
TINY = "--hidden-size 16 --attention-dim 8 --embed-dim 8 --encoder-layers 1 --decoder-layers 1"
needs_real_text = pytest.mark.skipif(not (REAL / "xml").exists(), reason="the campaign's test sets are not here")


@pytest.fixture(scope="module")
def iwslt14():
    """The module of the example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        import iwslt14

        yield iwslt14


def bash(script, *arguments, **variables):
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    settings = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GPUS": "0", **variables}
    command = ["bash", str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **settings}, timeout=120)


def assert_refused(run, *words):
    """One line on stderr that holds these words, exit status 1."""
    assert run.returncode == 1 and run.stderr.count("\n") == 1, run.stderr
    assert all(str(word) in run.stderr for word in words), run.stderr


def lines(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def tagged(lang, sentences, title=None):
    """Text of one talk: with a title, or only what was said."""
    text = ["<url>http://www.ted.com/talks/1</url>", f"<keywords>talks, {lang}</keywords>", "<talkid>1</talkid>"]
    text += ["<speaker>S.</speaker>"] + [f"<title>{title} </title>", f"<description>{title}.</description>"] * bool(title)
    text += [f" {sentence} " for sentence in sentences] + ["<reviewer></reviewer>", '<translator href="t">T</translator>']
    return "".join(line + "\n" for line in text).encode()


def xml(sentences):
    segments = "".join(f'<seg id="{n}"> {sentence} </seg>\n' for n, sentence in enumerate(sentences, 1))
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<mteval>\n<doc>\n<title>T</title>\n{segments}</doc>\n</mteval>\n'.encode()


def numbers(count, seed):
    """Pairs of sentences: numbers in German and English."""
    words = {"de": "Null Eins Zwei Drei Vier Fünf Sechs".split(), "en": "Zero One Two Three Four Five Six".split()}
    draw = random.Random(seed)
    digits = [[draw.randrange(7) for _ in range(draw.randint(3, 8))] for _ in range(count)]
    return {lang: [f"Es’s {' '.join(names[d] for d in line)}." for line in digits] for lang, names in words.items()}


def spoken_in_tests(lang):
    """What the small test sets hold, with plain apostrophes."""
    return [line.replace("’", "'") for seed in range(1, 6) for line in numbers(4, seed)[lang]]


def training_text():
    """What cleaning leaves of the small training text."""
    spoken = numbers(320, 0)
    return {lang: [*["Title", "Title."], *text] for lang, text in spoken.items()}


@pytest.fixture(scope="module")
def files():
    """Small files of the names that the campaign's archive has; four training pairs do not fit."""
    misfits = {"de": ["", "Eins.", "Eins", "Eins " * 176], "en": ["Nothing.", "", "One two.", "One " * 176]}
    content = {"README": b"IWSLT 2014", "train.en": b"A line.\n"}
    for lang in ("de", "en"):
        spoken = numbers(320, 0)[lang]
        content[f"train.tags.de-en.{lang}"] = tagged(lang, spoken[:99] + misfits[lang] + spoken[99:], "Title")
        for seed, name in enumerate(SETS, 1):
            content[f"IWSLT14.{name}.de-en.{lang}.xml"] = xml(numbers(4, seed)[lang])
    return content


def archive_of(content, path):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(f"de-en/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def known(iwslt14):
    """What tells prepare.sh about the small files."""
    return {"IWSLT14_TEST_SHA256": iwslt14.fingerprint([spoken_in_tests("de"), spoken_in_tests("en")]), "VOCAB": "70"}


@needs_real_text
@pytest.mark.parametrize("lang", ["de", "en"])
def test_tokens_are_those_of_moses(iwslt14, lang):
    """Line by line those of the field's test set, in its order."""
    text = [(REAL / "xml" / f"IWSLT16.{name}.de-en.{lang}.xml").read_bytes() for name in SETS]
    segments = [line for content in text for line in iwslt14.segments("", iwslt14.lines("", content))]
    assert len(segments) == 6750
    assert [iwslt14.tokenize(line, lang).lower() for line in segments] == lines(REAL / f"test.{lang}")


@pytest.mark.parametrize(
    "lang, line, tokens",
    [
        ("en", "\"Don't [1,000], 1990's...\" &", "&quot; Don &apos;t &#91; 1,000 &#93; , 1990 &apos;s ... &quot; &amp;"),
        ("en", " Mr. J. Smith, No. 5\tof the U.S. a few,\n", "Mr. J. Smith , No. 5 of the U.S. a few ,"),
        ("en", "It's 'so'. And 'tis", "It &apos;s &apos; so &apos; . And &apos; tis"),
        ("de", "Am 3. Mai, d.h. z.B. 1990. Geht's?", "Am 3. Mai , d.h. z.B. 1990 . Geht &apos; s ?"),
        ("de", "Ende. da. Da.", "Ende. da . Da ."),
        ("de", "", ""),
    ],
)
def test_tokens(iwslt14, lang, line, tokens):
    assert iwslt14.tokenize(line, lang) == tokens


@needs_real_text
def test_the_campaigns_text(iwslt14, tmp_path):
    """The test sets are whole and in order; the field's dev set, given as training text, loses no pair."""
    content, valid = {}, {}
    for lang in ("de", "en"):
        valid[lang] = [plain(line) for line in lines(REAL / f"valid.{lang}")]
        content[f"train.tags.de-en.{lang}"] = tagged(lang, valid[lang])
        for name in SETS:
            content[f"IWSLT14.{name}.de-en.{lang}.xml"] = (REAL / "xml" / f"IWSLT16.{name}.de-en.{lang}.xml").read_bytes()
    sha256 = re.search(r"TEST_SHA256:-(\w+)", (SCRIPTS / "prepare.sh").read_text())[1]
    iwslt14.extract(str(archive_of(content, tmp_path / "de-en.tgz")), tmp_path, sha256, lower=True)
    for lang in ("de", "en"):
        test = [plain(line) for line in lines(REAL / f"test.{lang}")]
        assert [squeezed(line) for line in lines(tmp_path / f"test.{lang}")] == [squeezed(line) for line in test]
        assert lines(tmp_path / f"valid.{lang}") == valid[lang][22::23]
        assert lines(tmp_path / f"train.{lang}") == [line for n, line in enumerate(valid[lang], 1) if n % 23]
    reference = lines(tmp_path / "reference.tok.en")
    assert reference == lines(REAL / "test.en")
    of_lower = [iwslt14.tokenize(line, "en", lower=True) for line in lines(tmp_path / "test.en")]
    assert sum(a != b for a, b in zip(of_lower, reference)) == 7  # abbreviations that Moses knows by the next word


def plain(tokens):
    """Moses' tokens without its escapes, it &apos;s being it's."""
    tokens = re.sub(" (?=&apos;[a-z])", "", tokens)
    for escape, character in ESCAPES.items():
        tokens = tokens.replace(escape, character)
    return tokens


def squeezed(line):
    return "".join(line.split())


def test_from_the_archive_to_bleu(files, known, tmp_path):
    archive, out, run = archive_of(files, tmp_path / "de-en.tgz"), tmp_path / "out", tmp_path / "run"
    (out / "unfinished" / "data").mkdir(parents=True)  # left by a run that was killed
    prepared = bash("prepare.sh", out, archive, **known)
    assert prepared.returncode == 0, prepared.stderr
    assert sorted(os.listdir(out)) == ["data", "text"]
    for lang, text in training_text().items():
        text = [line.lower() for line in text]
        assert lines(out / "text" / f"valid.{lang}") == text[22::23]
        assert lines(out / "text" / f"train.{lang}") == [line for n, line in enumerate(text, 1) if n % 23]
        assert lines(out / "text" / f"test.{lang}") == [line.lower() for line in spoken_in_tests(lang)]
    pieces = [{line.split()[0] for line in lines(out / "data" / f"dict.{lang}.txt")} for lang in ("de", "en")]
    assert pieces[0] != pieces[1] and len(pieces[0] | pieces[1]) <= int(known["VOCAB"]) + 8  # fairseq rounds up to 8
    before = (out / "data" / "train.de-en.de.bin").stat().st_mtime_ns
    assert "already there" in bash("prepare.sh", out, archive, **known).stdout
    refused = bash("prepare.sh", out, archive, **{**known, "CASED": "1", "VOCAB": "80"})
    assert_refused(refused, "already there, made with VOCAB=70 CASED= instead of VOCAB=80 CASED=1")
    assert (out / "data" / "train.de-en.de.bin").stat().st_mtime_ns == before

    for updates in (2, 3):  # the second run goes on from the first
        trained = bash("train.sh", out / "data", run, *TINY.split(), "--max-update", updates)
        assert trained.returncode == 0, trained.stderr + trained.stdout[-2000:]
    log = (run / "train.log").read_text()
    assert "SRUppTransformer" in log and "num_updates 3" in log and "(epoch 1 @ 2 updates)" in log

    scored = bash("evaluate.sh", out / "data", run / "checkpoint_best.pt", "--cpu")
    assert scored.returncode == 0, scored.stderr
    assert re.search(r"^BLEU\|nrefs:1\|case:lc\|eff:no\|tok:13a.* = \d", scored.stdout, re.MULTILINE), scored.stdout
    assert re.search(r"^tokenised, 20 lines: BLEU\|nrefs:1\|case:lc\|eff:no\|tok:none.* = \d", scored.stdout, re.MULTILINE)
    assert len(lines(run / "checkpoint_best.test.tok.en")) == 20


def test_upper_case_by_option(iwslt14, files, known, tmp_path):
    archive = archive_of(files, tmp_path / "de-en.tgz")
    iwslt14.extract(str(archive), tmp_path, known["IWSLT14_TEST_SHA256"], lower=False)
    assert lines(tmp_path / "test.de") == spoken_in_tests("de")
    assert lines(tmp_path / "valid.en") == training_text()["en"][22::23]


def md5(content):
    return hashlib.md5(content).hexdigest()


def test_download(iwslt14, files, known, tmp_path, capsys):
    """A part that has arrived is gone on from; a wrong length is told, another checksum warned of."""
    (tmp_path / "served").mkdir()
    archive = archive_of(files, tmp_path / "served" / "de-en.tgz")
    size = archive.stat().st_size
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(archive.parent)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        url, got = f"http://127.0.0.1:{server.server_port}/de-en.tgz", tmp_path / "new" / "de-en.tgz"
        iwslt14.fetch(url, str(got), size, md5(archive.read_bytes()))
        assert "warning" not in capsys.readouterr().err
        iwslt14.fetch(url, str(got), size, "0" * 32)
        assert "warning" in capsys.readouterr().err
        assert got.read_bytes() == archive.read_bytes() and os.listdir(got.parent) == ["de-en.tgz"]
        refused = bash("prepare.sh", tmp_path / "out", **known, IWSLT14_URL=url, IWSLT14_BYTES=str(size + 1))
        assert_refused(refused, f"{size + 1:,} were expected")
        archive.write_bytes(bytes(size))
        refused = bash(
            "prepare.sh", tmp_path / "out", **known, IWSLT14_URL=url, IWSLT14_BYTES=str(size), IWSLT14_MD5=md5(bytes(size))
        )
        assert_refused(refused, "no .tgz archive")
        assert not (tmp_path / "out" / "de-en.tgz").exists()
    finally:
        server.shutdown()
        server.server_close()


def test_what_cannot_be_written_is_one_line(files, known, tmp_path):
    archive = archive_of(files, tmp_path / "de-en.tgz")
    for arguments in (
        ["extract", archive, archive, known["IWSLT14_TEST_SHA256"], ""],
        ["fetch", "http://x", archive / "x", "1", "0"],
    ):
        command = [sys.executable, SCRIPTS / "iwslt14.py", *arguments]
        run = subprocess.run(command, capture_output=True, text=True)
        assert_refused(run, "iwslt14.py: ", archive, "Not a directory" if arguments[0] == "extract" else "File exists")


def test_bad_archives(files, known, tmp_path):
    out, bad = tmp_path / "out", tmp_path / "bad.tgz"

    def refused(content, *words):
        bad.write_bytes(content) if isinstance(content, bytes) else archive_of(content, bad)
        assert_refused(bash("prepare.sh", out, bad, **known), *words)
        assert not out.exists()

    german, english = "train.tags.de-en.de", "train.tags.de-en.en"
    whole = archive_of(files, bad).read_bytes()
    refused(whole[: len(whole) // 2], bad, "no .tgz archive, or a broken one")
    refused(whole[:-6] + b"\0\0" + whole[-4:], bad, "no .tgz archive, or a broken one")  # gzip's checksum
    refused(b"\x00\xff rubbish", bad, "no .tgz archive, or a broken one")
    refused({"README": b"IWSLT 2016"}, bad, "holds no IWSLT14.TED.dev2010.de-en.de.xml")
    refused({**files, german: files[german] + b"Noch eine Zeile.\n"}, "training text has 327 German and 326 English lines")
    refused({**files, german: files[german] + b"\x80\xfe\x00\n"}, f"{german}, line 333: not UTF-8")
    refused({**files, english: b"A line.\n"}, f"{english} has no tags")
    name = "IWSLT14.TED.tst2010.de-en.en.xml"
    refused({**files, name: b"<mteval>\n"}, f"{name} has no segments")
    refused({**files, name: files[name].replace(b"One", b"Two")}, "its test text is not that of IWSLT'14")
    assert_refused(bash("prepare.sh", out, tmp_path / "nowhere", **known), "nowhere: No such file or directory")


def test_what_is_missing_is_told_in_one_line(tmp_path):
    for script, usage in (("prepare.sh", "prepare.sh OUT"), ("train.sh", "train.sh DATA"), ("evaluate.sh", "evaluate.sh DATA")):
        for arguments in ([], ["", tmp_path / "none"], [tmp_path / "none", ""]):
            run = bash(script, *arguments)
            assert run.returncode == 2 and usage in run.stderr
    assert_refused(bash("train.sh", tmp_path, tmp_path / "run"), "dict.en.txt is missing: run prepare.sh")
    (tmp_path / "dict.en.txt").write_text("one 1\n")
    (tmp_path / "torch.py").write_text("class cuda:\n    device_count = lambda: 3\n")
    for gpus in ({"GPUS": "3"}, {"GPUS": "", "PYTHONPATH": str(tmp_path)}):
        assert_refused(bash("train.sh", tmp_path, tmp_path / "run", **gpus), "train.sh: 128 pairs cannot be shared by 3 GPUs")
    assert_refused(bash("train.sh", tmp_path, tmp_path / "run", GPUS="abc"), "train.sh: GPUS is no whole number: abc")
    assert_refused(bash("prepare.sh", tmp_path / "run", IWSLT14_BYTES="20MB"), "IWSLT14_BYTES is no whole number: 20MB")
    assert_refused(bash("prepare.sh", tmp_path / "a:b"), "a comma or colon")
    assert_refused(bash("prepare.sh", tmp_path / "dict.en.txt" / "out"), "prepare.sh: ", "Not a directory")
    assert_refused(bash("evaluate.sh", tmp_path, tmp_path / "run.pt"), "reference.tok.en is missing: run prepare.sh")
    assert not (tmp_path / "run").exists()
