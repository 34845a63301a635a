"""`python -m fairseq_srupp prepare-bytes`: files to fairseq data with one token per byte."""

import argparse
import os
import sys
import time
from typing import Dict, List, Optional

from ..compat.errors import UserError
from ..data.byte_corpus import (
    ByteRange,
    count_bytes,
    dictionary_lines,
    first_unknown_byte,
    read_dictionary,
    write_corpus,
)

_NAME = "prepare-bytes"
_SPLITS = ("train", "valid", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    for split in _SPLITS:
        parser.add_argument(f"--{split}", metavar="FILE", help=f"file whose bytes are the split '{split}'")
    parser.add_argument("--input", metavar="FILE", help="one file, cut into train, valid and test by --split")
    parser.add_argument("--split", metavar="BYTES", type=int, nargs=3, help="bytes of train, valid and test")
    parser.add_argument(
        "--dict", metavar="FILE", help="use this dict.txt of earlier data, to score other text with a trained model"
    )
    parser.add_argument("--destdir", metavar="DIR", required=True, help="folder to write dict.txt, *.bin, *.idx to")


def run(args: argparse.Namespace) -> int:
    """Write the corpus.

    Raises:
        UserError: files that are missing or too short, splits that do not fit, a folder that cannot be written.
    """
    try:
        splits = _by_size(args.input, args.split) if args.input or args.split else _by_file(args)
        progress = _Progress()
        counts = {split: count_bytes(source, progress) for split, source in splits.items()}
        if args.dict:
            lines = read_dictionary(args.dict)
            for split, seen in counts.items():
                unknown = first_unknown_byte(seen, lines)
                if unknown is not None:
                    _fail(f"{splits[split].path} holds the byte 0x{unknown:02X}, which {args.dict} lacks")
        else:
            lines = dictionary_lines(sum(counts.values()))
        _check_other_splits(args.destdir, splits, lines)
        write_corpus(splits, lines, args.destdir, progress)
    except (OSError, ValueError) as error:
        known = isinstance(error, OSError) and error.strerror and error.filename
        _fail(f"{error.filename}: {error.strerror}" if known else str(error))
    for split, source in splits.items():
        print(f"{split}: {source.size:,} tokens of {source.path}")
    print(f"dictionary of {len(lines)} bytes; all written to {args.destdir}")
    return 0


def _by_file(args: argparse.Namespace) -> Dict[str, ByteRange]:
    paths = {split: getattr(args, split) for split in _SPLITS if getattr(args, split)}
    if not paths:
        _fail("give --train, --valid and --test, or --input with --split")
    return {split: _checked(split, ByteRange(path, 0, _size(path))) for split, path in paths.items()}


def _by_size(path: Optional[str], sizes: Optional[List[int]]) -> Dict[str, ByteRange]:
    if not path or not sizes:
        _fail("--input and --split go together: --input FILE --split 90000000 5000000 5000000")
    if min(sizes) < 1:
        _fail("--split: every size must be at least 1")
    if sum(sizes) > _size(path):
        _fail(f"--split {' '.join(map(str, sizes))} is {sum(sizes):,} bytes, but {path} has {_size(path):,}")
    starts = [0, sizes[0], sizes[0] + sizes[1]]
    return {s: _checked(s, ByteRange(path, start, size)) for s, start, size in zip(_SPLITS, starts, sizes)}


def _size(path: str) -> int:
    if not os.path.isfile(path):
        _fail(f"{path}: no such file")
    return os.path.getsize(path)


def _checked(split: str, source: ByteRange) -> ByteRange:
    if source.size < 2:  # N bytes give N - 1 pairs of input and target
        _fail(f"{split}: {source.path} has {source.size} byte(s); at least 2 are needed")
    return source


def _check_other_splits(destdir: str, splits: Dict[str, ByteRange], lines: List[str]) -> None:
    """Refuse to leave splits that were written with another dictionary beside the new one."""
    path = os.path.join(destdir, "dict.txt")
    others = [s for s in _SPLITS if s not in splits and os.path.exists(os.path.join(destdir, f"{s}.bin"))]
    if not others or not os.path.exists(path):
        return
    if [line.split(" ")[0] for line in read_dictionary(path)] != [line.split(" ")[0] for line in lines]:
        _fail(f"{destdir} holds '{others[0]}' data of another dictionary; use --dict {path} or another --destdir")


def _fail(message: str) -> None:
    raise UserError(message, command=_NAME)


class _Progress:
    """Shows how far the work is, on stderr: one line that changes on a terminal, else a line now and then."""

    def __init__(self):
        self._terminal = sys.stderr.isatty()
        self._next = 0.0
        self._what = None

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what == self._what and done < total and now < self._next:
            return
        self._what, self._next = what, now + (0.1 if self._terminal else 5.0)
        if not self._terminal and done == 0:
            return
        line = f"{what}: {done:,} of {total:,} bytes ({100 * done // total} %)"
        end = "\n" if done == total or not self._terminal else ""
        print(f"\r\033[K{line}" if self._terminal else line, end=end, file=sys.stderr, flush=True)
