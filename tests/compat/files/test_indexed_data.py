"""An index that declares more than its files hold is one line, and no request for memory."""

import struct

import numpy as np
import pytest
import torch
from fairseq.data import data_utils, indexed_dataset

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import indexed_data

SENTENCES = [torch.arange(4, 4 + n) for n in (4, 5, 6)]


@pytest.fixture(autouse=True)
def repaired(fairseq_cli):
    pass


def written(folder, kind):
    builder = indexed_dataset.make_builder(str(folder / "x.bin"), kind, vocab_size=100)
    for sentence in SENTENCES:
        builder.add_item(sentence)
    builder.finalize(str(folder / "x.idx"))
    return folder / "x.idx"


def read(folder, kind):
    data = data_utils.load_indexed_dataset(str(folder / "x"), None, kind)
    if kind == "cached":
        data.prefetch(range(len(data)))
    return [data[i].tolist() for i in range(len(data))]


@pytest.mark.parametrize("kind", ["mmap", "lazy", "cached"])
def test_what_is_whole_is_read(kind, tmp_path):
    written(tmp_path, kind)
    assert read(tmp_path, kind) == [sentence.tolist() for sentence in SENTENCES]


@pytest.mark.parametrize(
    "kind, place, field, number, message",
    [
        ("mmap", 18, "<Q", 1 << 62, "x.idx is damaged: 4,611,686,018,427,387,904 sentences"),
        ("mmap", 18, "<Q", 1 << 61, "x.idx is damaged: 2,305,843,009,213,693,952 sentences"),
        ("mmap", 18, "<Q", 2, "x.idx is damaged: 2 sentences"),
        ("mmap", 17, "<B", 255, "x.idx is damaged: there is no type of tokens 255"),
        ("mmap", 26, "<i", 1 << 30, "end too early.*sentence 0 would be 1,073,741,824 tokens"),
        ("mmap", 30, "<i", -5, "sentence 1 would be -5 tokens"),
        ("mmap", 46, "<q", 1 << 62, "sentence 1 would be 5 tokens after"),
        ("mmap", 46, "<q", -8, "sentence 1 would be 5 tokens after"),
        ("cached", 24, "<Q", 3, "x.idx is damaged: tokens of 3 bytes"),
        ("cached", 16, "<Q", 99, "x.idx is damaged: there is no type of tokens 99"),
        ("cached", 32, "<Q", 1 << 62, "x.idx is damaged: 4,611,686,018,427,387,905 numbers"),
        ("cached", 40, "<Q", 1 << 62, "x.idx is damaged: 4,611,686,018,427,387,904 numbers"),
        ("cached", 56, "<q", 1 << 62, "x.idx is damaged: it has 3 lengths"),
        ("cached", 88, "<q", 1 << 62, "sentence 1 would be 5 tokens after 4,611"),
        ("cached", 112, "<q", 1 << 62, "sentence 0 would be 4,611,686,018,427,387,904 tokens"),
        ("lazy", 112, "<q", -1, "sentence 0 would be -1 tokens"),
    ],
)
def test_numbers_that_the_files_do_not_hold(kind, place, field, number, message, tmp_path):
    path = written(tmp_path, kind)
    data = bytearray(path.read_bytes())
    struct.pack_into(field, data, place, number)
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as error:
        read(tmp_path, kind)
    assert "\n" not in str(error.value)


def test_an_index_of_many_sentences_is_checked_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(indexed_data, "_CHUNK", 4)
    (tmp_path / "x.bin").write_bytes(bytes(20))
    sizes, starts = np.full(10, 2, np.int32), np.arange(0, 20, 2)
    indexed_data.check_places(str(tmp_path / "x.bin"), sizes, starts, 1)
    sizes[9] = 3
    with pytest.raises(UserError, match="sentence 9 would be 3 tokens after 18 of 20"):
        indexed_data.check_places(str(tmp_path / "x.bin"), sizes, starts, 1)
