"""A split as a stream: every storage format, and data that is damaged or of another dictionary."""

import pickle

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary, indexed_dataset

from fairseq_srupp.data.token_stream import (
    TokenFile,
    TokenStream,
    load_token_stream,
)

SENTENCES = [[4, 5, 6, 2], [7, 2], [8, 9, 4, 2]]
TOKENS = [token for sentence in SENTENCES for token in sentence]


@pytest.fixture
def dictionary():
    dictionary = Dictionary()
    for word in "abcdef":
        dictionary.add_symbol(word)
    return dictionary


def write(path, impl, sentences=SENTENCES, vocab_size=10):
    if impl == "raw":
        words = "abcdef"
        path.write_text("".join(" ".join(words[t - 4] for t in s[:-1]) + "\n" for s in sentences))
        return
    builder = indexed_dataset.make_builder(f"{path}.bin", impl, vocab_size)
    for sentence in sentences:
        builder.add_item(torch.IntTensor(sentence))
    builder.finalize(f"{path}.idx")


@pytest.mark.parametrize("impl", ["mmap", "lazy", "cached", "raw"])
@pytest.mark.parametrize("named", [True, False])
def test_every_format_gives_the_same_stream(tmp_path, dictionary, impl, named):
    write(tmp_path / "train", impl)
    stream = load_token_stream(str(tmp_path / "train"), dictionary, impl if named else None)
    assert stream.take(np.arange(0, len(stream))).tolist() == TOKENS


@pytest.mark.parametrize("vocab_size, dtype", [(10, np.uint16), (70000, np.uint32), (1 << 40, np.int64)])
def test_every_width(tmp_path, dictionary, vocab_size, dtype):
    write(tmp_path / "train", "mmap", vocab_size=vocab_size)
    assert TokenFile(str(tmp_path / "train"))[0:2].dtype == dtype
    assert load_token_stream(str(tmp_path / "train"), dictionary).take(np.arange(1, 4)).tolist() == TOKENS[1:4]


def test_mmap_data_is_not_copied_and_not_pickled(tmp_path, dictionary):
    write(tmp_path / "train", "mmap", [[4] * 50_000])
    tokens = TokenFile(str(tmp_path / "train"))
    assert isinstance(tokens[:], np.memmap)
    pickled = pickle.dumps(TokenStream([tokens]))
    assert len(pickled) < 1000
    assert pickle.loads(pickled).take(np.arange(3, 5)).tolist() == [4, 4]


def test_pieces_are_read_as_one(tmp_path, dictionary):
    for k in ("train", "train1", "train2"):
        write(tmp_path / k, "mmap")
    path = str(tmp_path / "train")
    assert len(load_token_stream(path, dictionary)) == len(TOKENS)
    stream = load_token_stream(path, dictionary, combine=True)
    expected = np.array(TOKENS * 3)
    assert len(stream) == len(expected)
    for start in range(len(expected)):
        for stop in range(start, len(expected) + 1):
            found = stream.take(np.arange(start, stop))
            assert found.dtype == np.int64
            assert found.tolist() == expected[start:stop].tolist()


def refused(path, dictionary, impl=None):
    with pytest.raises(SystemExit) as refusal:
        load_token_stream(str(path), dictionary, impl)
    line = str(refusal.value)
    assert line.startswith("fairseq_srupp: ") and "\n" not in line
    return line


def test_missing_split(tmp_path, dictionary):
    assert "no data for this split" in refused(tmp_path / "valid", dictionary)
    assert "no data for this split" in refused(tmp_path / "valid", dictionary, "mmap")
    write(tmp_path / "train", "mmap")
    (tmp_path / "train.bin").unlink()
    assert "no data for this split" in refused(tmp_path / "train", dictionary)


@pytest.mark.parametrize("sentences, tokens", [([], 0), ([[4]], 1)])
def test_nothing_to_predict(tmp_path, dictionary, sentences, tokens):
    write(tmp_path / "train", "mmap", sentences)
    assert f"{tokens} token(s)" in refused(tmp_path / "train", dictionary)


@pytest.mark.parametrize("name", ["train.bin", "train.idx"])
@pytest.mark.parametrize("keep", [0, 5, 30, -1])
def test_data_cut_short(tmp_path, dictionary, name, keep):
    write(tmp_path / "train", "mmap", [TOKENS * 5])
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:keep])
    assert str(tmp_path / "train") in refused(tmp_path / "train", dictionary)


def test_an_index_of_unknown_numbers(tmp_path, dictionary):
    write(tmp_path / "train", "mmap")
    index = bytearray((tmp_path / "train.idx").read_bytes())
    index[17] = 99
    (tmp_path / "train.idx").write_bytes(index)
    assert "train.idx is damaged" in refused(tmp_path / "train", dictionary)


def test_tokens_of_another_dictionary(tmp_path, dictionary):
    write(tmp_path / "train", "mmap", [[4, 5, 10, 6]])
    assert "token 10, but its dictionary has 10 symbols" in refused(tmp_path / "train", dictionary)
    write(tmp_path / "train", "mmap", [[4, 5, -3, 6]], vocab_size=1 << 40)
    assert "token -3" in refused(tmp_path / "train", dictionary)


def test_padding_in_the_text(tmp_path, dictionary):
    write(tmp_path / "train", "mmap", [[4, 5, dictionary.pad(), 6]])
    assert "padding symbol" in refused(tmp_path / "train", dictionary)
