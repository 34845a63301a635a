"""IWSLT'14 German-English from the campaign's archive.

    iwslt14.py fetch URL FILE BYTES MD5         the archive, from a public address
    iwslt14.py extract ARCHIVE OUT SHA256 CASE  OUT/train.de, train.en, valid.de, ..., one sentence a line, and
                                                OUT/reference.tok.en, the test text's tokens in lower case

SHA256 is that of the test text (see `fingerprint`), CASE is cased or, for lower case, empty.
"""

import hashlib
import os
import re
import sys
import tarfile
import zlib
from pathlib import Path

from moses import tokenize

sys.path.insert(0, str(Path(__file__).parents[1]))
from download import Dropped, Failed, length, receive  # noqa: E402

LANGS = ("de", "en")
TEST_SETS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
TRAIN = "train.tags.de-en.{}"
TEST = "IWSLT14.{}.de-en.{}.xml"
ABOUT_THE_TALK = re.compile("<(url|keywords|talkid|speaker|reviewer|translator)[ >]")
MAX_TOKENS, MAX_RATIO = 175, 1.5  # of a training pair, in Moses' tokens
VALID_EVERY = 23


def extract(archive: str, out: Path, sha256: str, lower: bool) -> None:
    """Write the three splits.

    Raises:
        Failed: not the campaign's archive.
    """
    files = read(archive)
    train = [training_lines(*files[TRAIN.format(lang)]) for lang in LANGS]
    test = [[line for name in TEST_SETS for line in segments(*files[TEST.format(name, lang)])] for lang in LANGS]
    for split, (source, target) in (("training", train), ("test", test)):
        if len(source) != len(target):
            raise Failed(f"{archive}: the {split} text has {len(source):,} German and {len(target):,} English lines")
    if fingerprint(test) != sha256:
        raise Failed(f"{archive}: its test text is not that of IWSLT'14 (SHA-256 {fingerprint(test)})")
    pairs = [pair for pair in zip(*train) if fits(pair)]
    splits = {
        "train": [pair for n, pair in enumerate(pairs, 1) if n % VALID_EVERY],
        "valid": pairs[VALID_EVERY - 1 :: VALID_EVERY],
        "test": list(zip(*test)),
    }
    print(f"{len(train[0]):,} lines of training text, {len(pairs):,} of which fit")
    for split, chosen in splits.items():
        for lang, side in zip(LANGS, zip(*chosen)):
            write(out / f"{split}.{lang}", side, lower)
        print(f"{split}: {len(chosen):,} pairs")
    write(out / "reference.tok.en", [tokenize(line, "en") for line in test[1]], lower=True)


def read(archive: str) -> dict:
    """The archive's files by name: for each what to call it in messages, and its lines."""
    names = {TRAIN.format(lang) for lang in LANGS} | {TEST.format(name, lang) for name in TEST_SETS for lang in LANGS}
    files = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = os.path.basename(member.name)
                if name in names and member.isfile():
                    files[name] = f"{archive}: {name}", tar.extractfile(member).read()
            while tar.fileobj.read(1 << 20):  # gzip's checksum stands at the end
                pass
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise Failed(f"{archive}: {error.strerror}") from None
    except (tarfile.TarError, EOFError, zlib.error, OSError):
        raise Failed(f"{archive} is no .tgz archive, or a broken one") from None
    if missing := sorted(names - files.keys()):
        raise Failed(f"{archive} holds no {missing[0]}: it is not the archive of IWSLT'14")
    return {name: (where, lines(where, content)) for name, (where, content) in files.items()}


def lines(where: str, content: bytes) -> list:
    """The lines of UTF-8 text; only a line feed ends a line."""
    text = []
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            text.append(line.decode())
        except UnicodeDecodeError:
            raise Failed(f"{where}, line {number:,}: not UTF-8") from None
    return text if text[-1] else text[:-1]


def training_lines(where: str, text: list) -> list:
    """What was said, titles and descriptions of a file of tagged text."""
    kept = [re.sub("</?(title|description)>", "", line) for line in text if not ABOUT_THE_TALK.search(line)]
    if len(kept) == len(text):
        raise Failed(f"{where} has no tags")
    return [clean(line) for line in kept]


def segments(where: str, text: list) -> list:
    """The segments of an XML file. Its typographic apostrophes become plain ones, as all of the training text are."""
    found = [re.sub(r"</?seg\b[^>]*>", "", line).replace("’", "'") for line in text if "<seg id" in line]
    if not found:
        raise Failed(f"{where} has no segments")
    return [clean(line) for line in found]


def clean(line: str) -> str:
    """A line without control characters, its words separated by single spaces."""
    return re.sub("[\x00-\x1f]", "", " ".join(line.split()))


def fits(pair: tuple) -> bool:
    """Whether both sides of a training pair have a length, and no too different ones."""
    short, long = sorted(len(tokenize(line, lang).split()) for line, lang in zip(pair, LANGS))
    return 1 <= short and long <= MAX_TOKENS and long <= MAX_RATIO * short


def fingerprint(test: list) -> str:
    """SHA-256 of the test text of both sides, lower case, without white space: tokens that are joined have it too."""
    text = "\n".join("".join(line.lower().split()) for side in test for line in side)
    return hashlib.sha256(text.encode()).hexdigest()


def write(path: Path, text: list, lower: bool) -> None:
    """Write lines."""
    text = "".join(line + "\n" for line in text)
    path.write_text(text.lower() if lower else text, encoding="utf-8", newline="\n")


def fetch(url: str, path: str, size: int, md5: str) -> None:
    """Download a file of known length, going on with what has arrived.

    Another MD5 is a warning only: it is known from one script of others.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    part = f"{path}.part"
    try:
        while length(part) != size:
            receive(url, part, size)
    except Dropped as error:
        raise Failed(f"{url}: {error}; the same command again goes on from here") from None
    got = hashlib.md5(Path(part).read_bytes()).hexdigest()
    if got != md5:
        print(f"iwslt14.py: warning: {url} has the MD5 {got}, not {md5}", file=sys.stderr)
    os.replace(part, path)


def main() -> None:
    command, *rest = sys.argv[1:]
    try:
        if command == "fetch":
            fetch(rest[0], rest[1], int(rest[2]), rest[3])
        else:
            extract(rest[0], Path(rest[1]), rest[2], lower=rest[3] != "cased")
    except Failed as error:
        sys.exit(f"iwslt14.py: {error}")
    except OSError as error:  # of what is written
        sys.exit(f"iwslt14.py: {error.filename or rest[1]}: {error.strerror}")


if __name__ == "__main__":
    main()
