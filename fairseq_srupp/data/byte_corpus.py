"""Files turned into fairseq data with one token per byte.

The result is what `fairseq-preprocess` would leave: `dict.txt` and, for each split, `<split>.bin` and `<split>.idx`
in fairseq's mmap format, which is simple enough to be written here without importing fairseq. Memory use does not
depend on the size of the files.
"""

import os
import shutil
import struct
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from .byte_symbols import BYTE_SYMBOLS, SPECIAL_SYMBOLS, byte_of

Advance = Callable[[str, int, int], None]
"""Called with what is being done, and how many bytes of how many are done."""

_CHUNK = 1 << 22
# A split is cut into items of this many tokens. fairseq's own datasets read and convert whole items, so one huge item
# would cost them the whole file for every sample; borders mean nothing.
_ITEM = 4096
_TEMPORARY = ".prepare-bytes.tmp"


class ByteRange(NamedTuple):
    """`size` bytes of a file, from `start` on."""

    path: str
    start: int
    size: int


def count_bytes(source: ByteRange, advance: Advance) -> np.ndarray:
    """How often each byte value occurs: int64 (256,)."""
    counts = np.zeros(256, dtype=np.int64)
    for chunk in _chunks(source, f"counting {source.path}", advance):
        counts += np.bincount(chunk, minlength=256)
    return counts


def dictionary_lines(counts: np.ndarray) -> List[str]:
    """Lines of dict.txt for the byte values that occur: the most frequent first, ties by value."""
    order = sorted(np.flatnonzero(counts), key=lambda b: (-counts[b], b))
    return [f"{BYTE_SYMBOLS[b]} {counts[b]}" for b in order]


def read_dictionary(path: str) -> List[str]:
    """The lines of an existing dict.txt.

    Raises:
        ValueError: not a dictionary, or none of bytes.
    """
    with open(path, encoding="utf-8", errors="replace") as f:
        lines = [line for line in f.read().split("\n") if line]
    if any(len(line.split(" ")) != 2 or not line.split(" ")[1].isdigit() for line in lines):
        raise ValueError(f"{path} is not a fairseq dictionary of bytes")
    if not (token_ids(lines) > 0).any():
        raise ValueError(f"{path} has no byte in it")
    return lines


def token_ids(lines: Sequence[str]) -> np.ndarray:
    """The token of each byte value, 0 for those that the dictionary lacks: int (256,), of the smallest dtype."""
    highest = len(SPECIAL_SYMBOLS) + len(lines) - 1
    ids = np.zeros(256, dtype=np.uint8 if highest <= np.iinfo(np.uint8).max else np.uint16)
    for index, line in enumerate(lines, start=len(SPECIAL_SYMBOLS)):
        try:
            ids[byte_of(line.split(" ")[0])] = index
        except KeyError:  # fairseq pads dictionaries with made-up words
            pass
    return ids


def write_corpus(splits: Dict[str, ByteRange], lines: Sequence[str], destdir: str, advance: Advance) -> None:
    """Write dict.txt and the splits into a folder, all of it or nothing.

    Everything is written under temporary names first. Then a dict.txt that is there goes, the splits take their
    places, and dict.txt, without which the folder is no fairseq data, comes last: wherever the program is killed,
    the folder holds the old data, the new, or nothing that could be taken for data.

    Raises:
        OSError: the folder cannot be written.
        ValueError: a file changed since its bytes were counted.
    """
    existed = os.path.isdir(destdir)
    temporary = os.path.join(destdir, _TEMPORARY)
    try:
        os.makedirs(destdir, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # left by a run that was killed
        os.mkdir(temporary)
        for split, source in splits.items():
            _write_split(os.path.join(temporary, split), source, token_ids(lines), advance)
        with open(os.path.join(temporary, "dict.txt"), "w", encoding="utf-8") as f:
            f.writelines(f"{line}\n" for line in lines)
        old = os.path.join(destdir, "dict.txt")
        if os.path.lexists(old):
            os.remove(old)
        for name in [f"{split}.{kind}" for split in splits for kind in ("bin", "idx")] + ["dict.txt"]:
            os.replace(os.path.join(temporary, name), os.path.join(destdir, name))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if not existed and os.path.isdir(destdir) and not os.listdir(destdir):
            os.rmdir(destdir)


def _write_split(prefix: str, source: ByteRange, ids: np.ndarray, advance: Advance) -> None:
    with open(f"{prefix}.bin", "wb") as data:
        for chunk in _chunks(source, f"writing {os.path.basename(prefix)}", advance):
            tokens = ids[chunk]
            if not tokens.all():
                raise ValueError(f"{source.path} changed while it was read")
            tokens.tofile(data)
    sizes = np.full(-(-source.size // _ITEM), _ITEM, dtype=np.int32)
    sizes[-1] = source.size - _ITEM * (len(sizes) - 1)
    offsets = np.arange(len(sizes), dtype=np.int64) * (_ITEM * ids.itemsize)
    dtype_code = {np.dtype(np.uint8): 1, np.dtype(np.uint16): 8}[ids.dtype]
    with open(f"{prefix}.idx", "wb") as index:
        index.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQ", 1, dtype_code, len(sizes)))
        sizes.tofile(index)
        offsets.tofile(index)


def _chunks(source: ByteRange, what: str, advance: Advance):
    with open(source.path, "rb") as f:
        f.seek(source.start)
        done = 0
        advance(what, 0, source.size)
        while done < source.size:
            chunk = np.fromfile(f, dtype=np.uint8, count=min(_CHUNK, source.size - done))
            if not len(chunk):
                raise ValueError(f"{source.path} changed while it was read")
            yield chunk
            done += len(chunk)
            advance(what, done, source.size)


def first_unknown_byte(counts: np.ndarray, lines: Sequence[str]) -> Optional[int]:
    """The lowest byte value that occurs and that the dictionary lacks, or None."""
    unknown = np.flatnonzero((counts > 0) & (token_ids(lines) == 0))
    return int(unknown[0]) if len(unknown) else None
