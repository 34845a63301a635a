"""The author's vocabularies: his order, fairseq's special symbols, and files that are none."""

import pytest

from fairseq_srupp.data.released_vocabulary import byte_vocabulary, word_vocabulary


def words_of(path, content, **options):
    path.write_text(content, encoding="utf-8")
    options = {"is_text": False, "symbols": len(content.splitlines()), "first_band": 4, **options}
    return word_vocabulary(str(path), **options)


def test_words_of_a_text_by_frequency_then_appearance(tmp_path):
    text = " = Title = \n\n a b <unk> c \n c b <unk> d é\n"
    lines, source = words_of(tmp_path / "text", text, is_text=True, symbols=9, first_band=6)
    # his: <eos> = b <unk> c Title a d é
    assert lines == ["= 2", "b 2", "c 2", "Title 1", "a 1", "d 1", "é 1"]
    assert source == [-1, -1, 0, 3, 1, 2, 4, 5]


def test_a_list_of_words_with_counts(tmp_path):
    lines, source = words_of(tmp_path / "list", "the 9\n<S> 7\n, 5\n<UNK> 4\nof 3\nthe 1\n", symbols=5)
    assert lines == ["the 1", ", 1", "of 1"] and source == [-1, -1, 1, 3, 0, 2]


def test_a_vocabulary_without_unknown_word(tmp_path):
    assert words_of(tmp_path / "list", "<eos>\na\nb\n", first_band=2).source == [-1, -1, 0, -1, 1]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a\nb\nc\n", "neither <eos> nor <S>"),
        ("a\nb\nc\nd\n<eos>\n", "<eos> is word 5, but must be one of the first 4"),
        ("<S>\nb\nc\nd\n<UNK>\n", "<UNK> is word 5"),
        ("<S>\nb\n</s>\n", r"needs </s> \(word 3\) for itself"),
        ("<S>\n<unk>\n<UNK>\n", r"needs <unk> \(word 2\) for itself"),
    ],
)
def test_words_that_cannot_be(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        words_of(tmp_path / "list", content)


def test_what_is_no_list_of_words(tmp_path):
    with pytest.raises(ValueError, match="has 3 words, the checkpoint 4"):
        words_of(tmp_path / "list", "<eos>\na\nb\n", symbols=4)
    (tmp_path / "list").write_bytes(b"\xff\xfe\x80")
    with pytest.raises(ValueError, match="list is no text in UTF-8"):
        word_vocabulary(str(tmp_path / "list"), is_text=False, symbols=3, first_band=2)


def test_bytes_of_a_text_and_of_its_dictionary(tmp_path):
    (tmp_path / "text").write_bytes(b"cab\ncc\xe9")
    lines, source = byte_vocabulary(str(tmp_path / "text"), is_text=True, symbols=5)
    assert lines == ["c 3", "<0x0A> 1", "a 1", "b 1", "<0xE9> 1"]
    assert source == [-1, -1, -1, -1, 3, 0, 1, 2, 4]
    (tmp_path / "dict.txt").write_text("b 5\n<0x0A> 4\na 1\n")
    lines, source = byte_vocabulary(str(tmp_path / "dict.txt"), is_text=False, symbols=3)
    assert lines == ["b 5", "<0x0A> 4", "a 1"] and source == [-1, -1, -1, -1, 2, 0, 1]


@pytest.mark.parametrize(
    "content, message",
    [
        ("a 1\nb 1\nc 1\n", "has 3 bytes, the checkpoint 2"),
        ("a 1\na 1\n", "has 1 different bytes, the checkpoint 2"),
        ("a 1\nword 1\n", "word is not the symbol of a byte"),
        ("a b c\n", "is not a fairseq dictionary"),
    ],
)
def test_what_is_no_dictionary_of_bytes(tmp_path, content, message):
    (tmp_path / "dict.txt").write_text(content)
    with pytest.raises(ValueError, match=message):
        byte_vocabulary(str(tmp_path / "dict.txt"), is_text=False, symbols=2)
