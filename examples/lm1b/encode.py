"""The sentences of many files as fairseq data, in little memory.

`fairseq-preprocess` would give the same, but it holds several Python objects per sentence, and beyond 2 GiB its index is
wrong under numpy 2. Here words are counted first, a file a process; then each file's tokens are written to their place.
"""

import argparse
import os
import signal
import struct
import sys
import time
from array import array
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Callable, Dict, Iterable, NamedTuple, Sequence, Tuple

import numpy as np

SPECIAL = (b"<s>", b"<pad>", b"</s>", b"<unk>")
"""What every fairseq dictionary begins with."""

EOS, UNK = 2, 3
_HEADER = struct.Struct("<9sQBQ")  # magic, version, dtype code, number of sentences


class Encoding(NamedTuple):
    """What the processes of the second pass share."""

    paths: Sequence[str]
    sizes: np.ndarray  # (files, 2): sentences and tokens
    ids: Dict[bytes, int]
    prefix: str


_encoding: Encoding  # inherited by forked processes: sending the dictionary to each would copy it


def count(path: str) -> Tuple[Tuple[int, int], "Counter[bytes]"]:
    """How many sentences and tokens a file has, and how often each word occurs."""
    counts, sentences = Counter(), 0
    with open(path, "rb") as f:
        for line in f:
            # Words end at ASCII white space, as in the corpus's own counts; str.split would know more borders.
            counts.update(line.split())
            sentences += 1
    return (sentences, sum(counts.values()) + sentences), counts


def write_file(number: int) -> None:
    """Write the tokens of a training file to their place."""
    paths, sizes, ids, prefix = _encoding
    with open(paths[number], "rb") as f:
        tokens, lengths = encode(f, ids)
    sentence, token = sizes[:number].sum(axis=0).tolist()
    write_items(prefix, tokens, lengths, sentence, token, int(sizes[:, 0].sum()))


def encode(lines: Iterable[bytes], ids: Dict[bytes, int]) -> Tuple[array, array]:
    """The tokens of sentences, each ended by </s>, and their lengths."""
    tokens, lengths = array("i"), array("i")
    for line in lines:
        row = [ids.get(word, UNK) for word in line.split()]
        row.append(EOS)
        tokens.fromlist(row)
        lengths.append(len(row))
    return tokens, lengths


def create(prefix: str, sentences: int) -> None:
    """Begin a split in fairseq's mmap format, of int32."""
    open(f"{prefix}.bin", "wb").close()
    with open(f"{prefix}.idx", "wb") as index:
        index.write(_HEADER.pack(b"MMIDIDX\x00\x00", 1, 4, sentences))


def write_items(prefix: str, tokens: array, lengths: array, sentence: int, token: int, sentences: int) -> None:
    """Write sentences to their place in a split of `sentences`: the first is number `sentence`, its first token `token`."""
    with open(f"{prefix}.bin", "r+b") as data:
        data.seek(4 * token)
        tokens.tofile(data)
    ends = np.cumsum(lengths, dtype=np.int64)
    with open(f"{prefix}.idx", "r+b") as index:
        index.seek(_HEADER.size + 4 * sentence)
        lengths.tofile(index)
        index.seek(_HEADER.size + 4 * sentences + 8 * sentence)
        (4 * (token + ends - lengths)).tofile(index)


def write_dictionary(path: str, counts: "Counter[bytes]", least: int) -> None:
    """Write the words that occur at least so often, the most frequent first, ties by value."""
    words = sorted(word for word, count in counts.items() if count >= least and word not in SPECIAL)
    words.sort(key=counts.__getitem__, reverse=True)
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        f.writelines(f"{word.decode()} {counts[word]}\n" for word in words)


def read_dictionary(path: str) -> Dict[bytes, int]:
    """The id of each word."""
    with open(path, "rb") as f:
        return {word: i for i, word in enumerate((*SPECIAL, *(line.split(b" ")[0] for line in f)))}


def run(train: Sequence[str], others: Dict[str, str], destdir: str, workers: int, least: int) -> None:
    """Write dict.txt and all splits.

    Args:
        others: splits of one file each.
        least: how often a word of the dictionary occurs in the training files.

    Raises:
        OSError: a file cannot be read or written.
        UnicodeDecodeError: the text is not UTF-8.
    """
    global _encoding
    counts, sizes = Counter(), []
    for size, words in in_processes(workers, "counting words, file", count, train):
        sizes.append(size)
        counts.update(words)
    dictionary = os.path.join(destdir, "dict.txt")
    write_dictionary(dictionary, counts, least)
    # Words read again lie together in memory. Those counted lie among the rare ones, and processes would copy all those
    # pages: Python writes to an object whenever it looks at one.
    del counts
    ids = read_dictionary(dictionary)
    for split, path in others.items():
        with open(path, "rb") as f:
            tokens, lengths = encode(f, ids)
        prefix = os.path.join(destdir, split)
        create(prefix, len(lengths))
        write_items(prefix, tokens, lengths, 0, 0, len(lengths))
    _encoding = Encoding(train, np.array(sizes), ids, os.path.join(destdir, "train"))
    create(_encoding.prefix, int(_encoding.sizes[:, 0].sum()))
    for _ in in_processes(workers, "writing tokens, file", write_file, range(len(train))):
        pass


def in_processes(workers: int, what: str, function: Callable, *arguments: Sequence):
    """Results of a function in the arguments' order, computed in several processes; says on stderr how far it is."""
    terminal, shown, total = sys.stderr.isatty(), time.monotonic(), len(arguments[0])
    quiet = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent alone
    with ProcessPoolExecutor(workers, get_context("fork"), signal.signal, quiet) as pool:
        for done, result in enumerate(pool.map(function, *arguments), start=1):
            yield result
            if terminal or time.monotonic() - shown > 5:
                shown = time.monotonic()
                begin, end = ("\r\033[K", "\n" if done == total else "") if terminal else ("", "\n")
                print(f"{begin}{what} {done} of {total}", end=end, file=sys.stderr, flush=True)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="The sentences of many files as fairseq data.")
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE", help="one sentence a line")
    parser.add_argument("--valid", required=True, metavar="FILE", help="one sentence a line")
    parser.add_argument("--test", required=True, metavar="FILE", help="one sentence a line")
    parser.add_argument("--destdir", required=True, metavar="DIR", help="an existing folder for the data")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--least", type=int, default=3, metavar="N", help="a word of the dictionary occurs so often")
    args = parser.parse_args()
    others = {"valid": args.valid, "test": args.test}
    try:
        run(args.train, others, args.destdir, args.workers, args.least)
        return 0
    except UnicodeDecodeError as error:
        message, code = f"the text is not UTF-8: {error.object!r}", 1
    except OSError as error:
        message, code = f"{error.filename}: {error.strerror}", 1
    except BrokenProcessPool:
        message, code = "a process was killed; was there too little memory?", 1
    except KeyboardInterrupt:
        message, code = "stopped", 130
    print(f"encode.py: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
