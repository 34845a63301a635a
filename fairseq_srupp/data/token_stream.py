"""A split's tokens as one stream, whatever fairseq format they are stored in."""

import itertools
import os
import struct
from typing import Iterator, List, Optional, Sequence, Union

import numpy as np
from fairseq.data import Dictionary, data_utils, indexed_dataset

from ..compat.errors import UserError

_CHUNK = 1 << 24
_MMAP_HEADER = struct.Struct("<9sQBQ")  # magic, version, dtype code, number of items


class TokenFile:
    """The tokens of a fairseq mmap data file as one array, read through the page cache; pickles as its path.

    Args:
        prefix: path without `.bin` and `.idx`.

    Raises:
        UserError: the two files do not fit together, as when a copy was cut short.
    """

    def __init__(self, prefix: str):
        index, data = indexed_dataset.index_file_path(prefix), indexed_dataset.data_file_path(prefix)
        with open(index, "rb") as f:
            header = f.read(_MMAP_HEADER.size)
            if len(header) < _MMAP_HEADER.size:
                raise UserError(f"{index} is cut short: prepare the data again")
            _, _, code, items = _MMAP_HEADER.unpack(header)
            if code not in indexed_dataset._code_to_dtype:
                raise UserError(f"{index} is damaged: prepare the data again")
            sizes = np.fromfile(f, dtype=np.int32, count=items)
            offsets = np.fromfile(f, dtype=np.int64, count=items)
        self._index = index
        self._items = items
        self._path = data
        self._dtype = np.dtype(indexed_dataset._code_to_dtype[code])
        self._length = int(sizes.sum(dtype=np.int64))
        ends = np.cumsum(sizes, dtype=np.int64) * self._dtype.itemsize
        if len(offsets) < items or os.path.getsize(data) != self._length * self._dtype.itemsize:
            raise UserError(f"{data} and {index} do not fit together: prepare the data again")
        if not np.array_equal(offsets, ends - sizes * self._dtype.itemsize):
            raise UserError(f"{data} does not hold its items one after the other: prepare the data again")
        self._open()

    def _open(self) -> None:
        self._tokens = np.memmap(self._path, dtype=self._dtype, mode="r") if self._length else np.zeros(0, self._dtype)

    def __getstate__(self) -> dict:
        return {name: value for name, value in self.__dict__.items() if name != "_tokens"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, part: Union[slice, np.ndarray]) -> np.ndarray:
        return self._tokens[part]

    @property
    def sentence_lengths(self) -> np.ndarray:
        """Tokens of each item, int32, read through the page cache."""
        if not self._items:
            return np.zeros(0, np.int32)
        return np.memmap(self._index, np.int32, mode="r", offset=_MMAP_HEADER.size, shape=(self._items,))


class TokenArrays:
    """Sentences of tokens in memory, as one array.

    Args:
        sentences: of int32.
    """

    def __init__(self, sentences: Sequence[np.ndarray]):
        self._tokens = np.concatenate([np.zeros(0, np.int32), *sentences])
        self.sentence_lengths = np.array([len(sentence) for sentence in sentences], np.int32)

    def __len__(self) -> int:
        return len(self._tokens)

    def __getitem__(self, part: Union[slice, np.ndarray]) -> np.ndarray:
        return self._tokens[part]


class TokenStream:
    """Arrays of tokens one after the other.

    Args:
        parts: arrays, or anything else that has a length and can be indexed by slices and arrays. What has no
            `sentence_lengths` is one sentence.
    """

    def __init__(self, parts: Sequence):
        self._parts = list(parts)
        self._starts = [0, *itertools.accumulate(len(part) for part in self._parts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The tokens at positions from 0 to len(self) - 1: int64, of the same shape."""
        if len(self._parts) == 1:
            return self._parts[0][positions].astype(np.int64)
        tokens = np.empty(positions.shape, np.int64)
        for part, start, stop in zip(self._parts, self._starts, self._starts[1:]):
            inside = (start <= positions) & (positions < stop)
            tokens[inside] = part[positions[inside] - start]
        return tokens

    def sentence_lengths(self) -> np.ndarray:
        """Tokens of each sentence, int32: of each line of the text, with the end of sentence that fairseq put there."""
        lengths = [getattr(part, "sentence_lengths", np.array([len(part)], np.int32)) for part in self._parts]
        return lengths[0] if len(lengths) == 1 else np.concatenate(lengths)

    def chunks(self) -> Iterator[np.ndarray]:
        """The whole stream in pieces of bounded size, as they are stored."""
        for part in self._parts:
            for start in range(0, len(part), _CHUNK):
                yield part[start : start + _CHUNK]


class ShuffledStream:
    """The sentences of a stream in a random order: each token once, and nothing of the text is copied.

    Holds two numbers for each sentence, of 4 bytes each where the stream has fewer than 2^32 tokens.

    Args:
        stream: with its sentences.
        seed: numbers from 0 to 2^32 - 1. The order is the same on every machine and with every numpy: that of the frozen
            RandomState.
    """

    def __init__(self, stream: TokenStream, seed: Sequence[int]):
        lengths, kind = stream.sentence_lengths(), np.uint32 if len(stream) < 1 << 32 else np.int64
        order = np.arange(len(lengths), dtype=np.int32)
        np.random.RandomState(list(seed)).shuffle(order)
        self._stream = stream
        self._sources = _starts(lengths, kind)[order]  # of each sentence in the new order, where it stands in the stream
        self._starts = _starts(lengths[order], kind)  # and where it stands now

    def __len__(self) -> int:
        return len(self._stream)

    def take(self, positions: np.ndarray) -> np.ndarray:
        """As of TokenStream."""
        # Of another type than the starts, numpy would copy all of these.
        sentence = np.searchsorted(self._starts, positions.astype(self._starts.dtype), side="right") - 1
        within = positions - self._starts[sentence]
        return self._stream.take(self._sources[sentence] + within)


def _starts(lengths: np.ndarray, kind: type) -> np.ndarray:
    """Where each of some sentences that follow one another begins."""
    starts = np.zeros(len(lengths), kind)
    starts[1:] = lengths[:-1]
    return np.add.accumulate(starts, out=starts)  # np.cumsum would take four times the memory, for wider numbers


def load_token_stream(
    path: str, dictionary: Dictionary, dataset_impl: Optional[str] = None, combine: bool = False
) -> TokenStream:
    """The tokens of `path`.bin/.idx (or raw text, ...) as one stream; ends of sentences are tokens like any other.

    Data in fairseq's mmap format is not copied into memory.

    Args:
        path: path of the split without ending, e.g. data-bin/valid.
        dictionary: whose tokens they are.
        dataset_impl: fairseq's --dataset-impl; None: whatever is there.
        combine: go on with `path`1, `path`2, ... as far as they exist.

    Raises:
        UserError: nothing there, nothing in it, or tokens that are not the dictionary's.
    """
    parts: List = []
    for k in itertools.count():
        part = _load_part(path if k == 0 else f"{path}{k}", dictionary, dataset_impl)
        if part is not None:
            parts.append(part)
        if part is None or not combine:
            break
    if not parts:
        raise UserError(f"no data for this split: {path}.bin and {path}.idx are not both there")
    stream = TokenStream(parts)
    if len(stream) < 2:
        raise UserError(f"{path} has {len(stream)} token(s): at least 2 are needed, one to read and one to predict")
    _check_tokens(path, stream, dictionary)
    return stream


def _load_part(path: str, dictionary: Dictionary, dataset_impl: Optional[str]):
    impl = dataset_impl or indexed_dataset.infer_dataset_impl(path)
    if impl == "mmap" and indexed_dataset.dataset_exists(path, impl):
        return TokenFile(path)
    if impl is None:
        if indexed_dataset.dataset_exists(path, "cached"):
            raise UserError(f"{indexed_dataset.index_file_path(path)} is no index of fairseq data")
        return None
    dataset = data_utils.load_indexed_dataset(path, dictionary, impl)
    if dataset is None:
        return None
    if getattr(dataset, "supports_prefetch", False):
        dataset.prefetch(range(len(dataset)))
    return TokenArrays([dataset[i].numpy().astype(np.int32) for i in range(len(dataset))])


def _check_tokens(path: str, stream: TokenStream, dictionary: Dictionary) -> None:
    for tokens in stream.chunks():
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= len(dictionary):
            raise UserError(
                f"{path} holds token {high if low >= 0 else low}, but its dictionary has {len(dictionary)} symbols: "
                "data and dict.txt are not of one preparation"
            )
        if low <= dictionary.pad() and (tokens == dictionary.pad()).any():
            raise UserError(f"{path} holds the padding symbol {dictionary.pad_word}, which cannot be scored")
