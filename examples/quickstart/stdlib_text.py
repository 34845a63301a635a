"""Collects the source files of this machine's Python standard library as text for a language model.

    python stdlib_text.py --output DIR

DIR gets train.txt, valid.txt and test.txt; each source file stands in one of them only.
"""

from __future__ import annotations

import argparse
import hashlib
import sysconfig
from pathlib import Path

_SKIPPED_FOLDERS = {
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "site-packages",
    "dist-packages",
    "encodings",
    "pydoc_data",
    "__pycache__",
    "__phello__",
}
_LONGEST = 250_000  # bytes; longer ones are tables that a program wrote


def source_files(library: Path) -> list[Path]:
    """Paths below `library` of its source files, in a fixed order that has nothing to do with their names.

    Left out are tests, generated tables and what was installed beside the library.
    """
    files = []
    for path in library.rglob("*.py"):
        below = path.relative_to(library)
        folders = below.parts[:-1]
        generated = below.name.startswith("_sysconfigdata") or any(name.startswith("config-") for name in folders)
        if not generated and not _SKIPPED_FOLDERS & set(folders) and 0 < path.stat().st_size <= _LONGEST:
            files.append(below)
    return sorted(files, key=lambda path: hashlib.sha256(path.as_posix().encode()).digest())


def write_text(library: Path, output: Path, valid: int, test: int, most: int) -> dict[str, tuple[int, int]]:
    """Writes test and valid of so many bytes or a few more, and train of the rest up to `most`, to `output`.

    No file makes up more than a fifth of test or valid: they are to tell of the library, not of one module.

    Returns:
        (files, bytes) of each split.

    Raises:
        ValueError: the library is too small to be split, or has no sources at all.
    """
    counts, texts, files = {}, {}, source_files(library)
    for split, size, longest in (
        ("test", test, test // 5),
        ("valid", valid, valid // 5),
        ("train", most, most),
    ):
        taken, pieces, rest = 0, [], []
        for path in files:
            if taken < size and (library / path).stat().st_size <= longest:
                pieces.append((library / path).read_bytes())
                taken += len(pieces[-1])
            else:
                rest.append(path)
        counts[split], texts[split], files = (len(pieces), taken), b"".join(pieces), rest
    if min(counts["test"][1] - test, counts["valid"][1] - valid) < 0 or counts["train"][1] < 2 * (valid + test):
        raise ValueError(f"{library} holds too few Python source files")
    output.mkdir(parents=True, exist_ok=True)
    for split, text in texts.items():
        (output / f"{split}.txt").write_bytes(text)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--valid-bytes", type=int, default=50_000)
    parser.add_argument("--test-bytes", type=int, default=200_000)
    parser.add_argument("--max-train-bytes", type=int, default=20_000_000)
    args = parser.parse_args()
    library = Path(sysconfig.get_path("stdlib"))
    try:
        counts = write_text(library, args.output, args.valid_bytes, args.test_bytes, args.max_train_bytes)
    except (OSError, ValueError) as error:
        raise SystemExit(f"stdlib_text.py: {error}") from error
    for split, (files, size) in sorted(counts.items()):
        print(f"{split}: {size:,} bytes of {files} files")


if __name__ == "__main__":
    main()
