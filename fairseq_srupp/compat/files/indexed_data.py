"""A data index that declares more than its files hold is refused before anything is made of it.

fairseq (0.12) takes the number of sentences, their places and their lengths from the index as they stand: 2**62
sentences, or a sentence outside of the file, end in a request for that much memory, in a traceback in the middle of
training, or in tokens of other sentences. May go when fairseq checks them.
"""

import os
import struct

import numpy as np

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap

_HEADER = struct.Struct("<9sQBQ")  # of an .idx of MMapIndexedDataset: magic, version, dtype, sentences
_CHUNK = 1 << 20  # sentences that are checked at a time


def check_header(path: str) -> None:
    """Raises: UserError when the .idx `path` of --dataset-impl mmap has another size than its header says."""
    from fairseq.data.indexed_dataset import _code_to_dtype

    with open(path, "rb") as file:
        header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return  # fairseq says so
    _, _, dtype, sentences = _HEADER.unpack(header)
    expected, size = _HEADER.size + sentences * (4 + 8), os.path.getsize(path)
    if dtype not in _code_to_dtype:
        raise UserError(f"{path} is damaged: there is no type of tokens {dtype}")
    if expected != size:
        raise UserError(f"{path} is damaged: {sentences:,} sentences make {expected:,} bytes, it has {size:,}")


def check_places(path: str, sizes: np.ndarray, starts: np.ndarray, itemsize: int) -> None:
    """Raises: UserError when a sentence, `sizes` tokens from token `starts` on, is not within the .bin `path`."""
    room = os.path.getsize(path) // itemsize
    for first in range(0, len(sizes), _CHUNK):
        count, start = sizes[first : first + _CHUNK].astype(np.int64), starts[first : first + _CHUNK]
        wrong = (count < 0) | (start < 0) | (start > room - count)
        if wrong.any():
            i = int(wrong.argmax())
            raise UserError(
                f"{path}: the data end too early: prepare them again "
                f"(sentence {first + i} would be {count[i]:,} tokens after {start[i]:,} of {room:,})"
            )


def apply() -> None:
    from fairseq.data import indexed_dataset
    from fairseq.data.indexed_dataset import IndexedDataset, MMapIndexedDataset, data_file_path

    @wrap(MMapIndexedDataset.Index, "__init__")
    def index(original, self, path):
        check_header(path)
        original(self, path)

    @wrap(MMapIndexedDataset, "_do_init")
    def do_init(original, self, path):
        original(self, path)
        itemsize = self._index.dtype().itemsize
        check_places(data_file_path(path), self._index.sizes, self._index._pointers // itemsize, itemsize)

    # Those of --dataset-impl lazy and cached.
    @wrap(indexed_dataset, "read_longs")
    def read_longs(original, file, n):
        room = os.fstat(file.fileno()).st_size - file.tell()
        if n * 8 > room:
            raise UserError(f"{file.name} is damaged: {n:,} numbers are to follow, it has room for {room // 8:,}")
        return original(file, n)

    @wrap(IndexedDataset, "read_index")
    def read_index(original, self, path):
        try:
            original(self, path)
        except KeyError as error:
            raise UserError(f"{path}.idx is damaged: there is no type of tokens {error}") from error
        itemsize = np.dtype(self.dtype).itemsize
        if self.element_size != itemsize:
            raise UserError(f"{path}.idx is damaged: tokens of {self.element_size:,} bytes instead of {itemsize}")
        if not np.array_equal(self.dim_offsets, np.arange(len(self.sizes) + 1)):
            raise UserError(f"{path}.idx is damaged: it has {len(self.sizes):,} lengths for {self._len:,} sentences")
        check_places(data_file_path(path), self.sizes, self.data_offsets[:-1], itemsize)
