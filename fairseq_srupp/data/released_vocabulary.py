"""The vocabularies of the models that the author of SRU++ released, and the fairseq dictionaries that stand for them.

Source: asappresearch/sru, branch 3.0.0-dev, experiments/srupp_experiments. enwik8: the distinct bytes, by value.
WikiText-103: <eos>, then the words of the training text, the most frequent first, ties in order of appearance.
Billion Word: the words of a file, 1b_word_vocab.txt.
"""

import os
from collections import Counter
from typing import Dict, List, NamedTuple

from .byte_corpus import ByteRange, count_bytes, dictionary_lines, read_dictionary
from .byte_symbols import SPECIAL_SYMBOLS, byte_of

_LINE_END_AND_UNKNOWN = (("<eos>", "<unk>"), ("<S>", "<UNK>"))
"""What WikiText-103 and Billion Word call what fairseq calls </s> and <unk>."""


class ReleasedVocabulary(NamedTuple):
    """A fairseq dictionary and where its symbols are in the author's vocabulary.

    lines: of dict.txt.
    source: the author's index of each symbol of the dictionary, its special symbols included, up to the end of the
        first band; -1 where he has none.
    """

    lines: List[str]
    source: List[int]


def byte_vocabulary(path: str, *, is_text: bool, symbols: int) -> ReleasedVocabulary:
    """The vocabulary of a model of bytes.

    Args:
        path: a text with all the bytes, or a dict.txt of prepare-bytes, whose order is kept.
        is_text: which of the two.
        symbols: of the model.

    Raises:
        ValueError: the file is not what it should be, or has more or fewer symbols.
        OSError: it cannot be read.
    """
    if is_text:
        lines = dictionary_lines(count_bytes(ByteRange(path, 0, os.path.getsize(path)), lambda *_: None))
    else:
        lines = read_dictionary(path)
    _check_size(path, "bytes", len(lines), symbols)
    try:
        values = [byte_of(line.split(" ")[0]) for line in lines]
    except KeyError as error:
        raise ValueError(f"{path}: {error.args[0]} is not the symbol of a byte") from error
    index = {value: i for i, value in enumerate(sorted(set(values)))}
    _check_size(path, "different bytes", len(index), symbols)
    return ReleasedVocabulary(lines, [-1] * len(SPECIAL_SYMBOLS) + [index[value] for value in values])


def word_vocabulary(path: str, *, is_text: bool, symbols: int, first_band: int) -> ReleasedVocabulary:
    """The vocabulary of a model of words.

    Args:
        path: the training text of WikiText-103, or a list of words in the author's order, one a line.
        is_text: which of the two.
        symbols: of the model.
        first_band: how many of them are in the first band.

    Raises:
        ValueError: the file is not what it should be, or has more or fewer words.
        OSError: it cannot be read.
    """
    try:
        counts = _count_words(path) if is_text else _read_words(path)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8") from error
    _check_size(path, "words", len(counts), symbols)
    words = list(counts)
    special = [-1, -1, *_line_end_and_unknown(path, words, first_band)]
    taken = next((i for i, word in enumerate(words) if word in SPECIAL_SYMBOLS and i not in special), None)
    if taken is not None:
        raise ValueError(f"{path}: fairseq needs {words[taken]} (word {taken + 1}) for itself; write it another way")
    lines = [f"{word} {counts[word]}" for i, word in enumerate(words) if i not in special]
    return ReleasedVocabulary(lines, special + [i for i in range(first_band) if i not in special])


def _count_words(path: str) -> Dict[str, int]:
    counts: "Counter[str]" = Counter()
    lines = 0
    with open(path, encoding="utf-8") as text:
        for line in text:
            counts.update(line.split())
            lines += 1
    return {"<eos>": lines, **dict(counts.most_common())}


def _read_words(path: str) -> Dict[str, int]:
    """The first word of each line, each word once; the file says nothing about how often it occurs."""
    with open(path, encoding="utf-8") as text:
        return dict.fromkeys((line.split()[0] for line in text if line.strip()), 1)


def _line_end_and_unknown(path: str, words: List[str], first_band: int) -> List[int]:
    """The indices of the two, -1 for an unknown word that is not there.

    fairseq has them at the vocabulary's start, where only words of the first band can stand.
    """
    names = next((names for names in _LINE_END_AND_UNKNOWN if names[0] in words), None)
    if names is None:
        raise ValueError(f"{path} has neither <eos> nor <S>, the end of a line")
    found = [words.index(name) if name in words else -1 for name in names]
    for name, index in zip(names, found):
        if index >= first_band:
            raise ValueError(f"{path}: {name} is word {index + 1}, but must be one of the first {first_band}")
    return found


def _check_size(path: str, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise ValueError(f"{path} has {found:,} {what}, the checkpoint {expected:,}")
