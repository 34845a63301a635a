"""Files with damage in them."""

import argparse
import random
import zipfile
from pathlib import Path
from typing import Any

import torch


def flip_bit(source, out, seed: int) -> int:
    """Copies a file with one bit flipped, at a place that the seed chooses; returns the byte."""
    data, choice = bytearray(Path(source).read_bytes()), random.Random(seed)
    place = choice.randrange(len(data))
    data[place] ^= 1 << choice.randrange(8)
    Path(out).write_bytes(data)
    return place


def flip_bit_outside_of_records(source, out, seed: int) -> int:
    """The same within what no checksum covers: headers, padding, the directory at the end."""
    covered = set()
    with zipfile.ZipFile(source) as archive, open(source, "rb") as file:
        for record in archive.infolist():
            file.seek(record.header_offset + 26)
            start = record.header_offset + 30 + sum(int.from_bytes(file.read(2), "little") for _ in range(2))
            covered.update(range(start, start + record.file_size))
    data, choice = bytearray(Path(source).read_bytes()), random.Random(seed)
    place = choice.choice([i for i in range(len(data)) if i not in covered])
    data[place] ^= 1 << choice.randrange(8)
    Path(out).write_bytes(data)
    return place


def zero_block(source, out, seed: int, size: int = 4096) -> int:
    """Copies a file with a block of zeros in the middle of its largest record; returns its first byte."""
    with zipfile.ZipFile(source) as archive:
        largest = max(archive.infolist(), key=lambda record: record.file_size)
    data = bytearray(Path(source).read_bytes())
    size = min(size, largest.file_size // 2)
    place = largest.header_offset + 512 + random.Random(seed).randrange(max(1, largest.file_size - size - 512))
    data[place : place + size] = bytes(size)
    Path(out).write_bytes(data)
    return place


def truncate(source, out, seed: int) -> int:
    """Copies the beginning of a file, of a length that the seed chooses; returns it."""
    data = Path(source).read_bytes()
    length = random.Random(seed).randrange(len(data))
    Path(out).write_bytes(data[:length])
    return length


def flip_in_pickle(source, out, text: bytes) -> None:
    """Copies a file with one bit flipped in the first place where a name stands in it."""
    data = bytearray(Path(source).read_bytes())
    data[data.index(text)] ^= 1
    Path(out).write_bytes(data)


def equal(a: Any, b: Any) -> bool:
    """Whether two loaded things are the same: types, order of names, bits of tensors."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
        return same and a.contiguous().view(-1).view(torch.uint8).equal(b.contiguous().view(-1).view(torch.uint8))
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, argparse.Namespace):
        return equal(vars(a), vars(b))
    return repr(a) == repr(b)
