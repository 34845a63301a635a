"""Byte symbols survive everything fairseq does with a dictionary's symbols."""

import pytest
from fairseq.data import Dictionary
from fairseq.data.encoders import build_bpe

from fairseq_srupp.data import byte_bpe  # noqa: F401
from fairseq_srupp.data.byte_symbols import (
    BYTE_SYMBOLS,
    SPECIAL_SYMBOLS,
    byte_of,
    bytes_of,
    symbols_of,
)


def test_every_byte_has_a_symbol_of_its_own():
    assert len(set(BYTE_SYMBOLS)) == 256
    assert not set(BYTE_SYMBOLS) & set(SPECIAL_SYMBOLS)
    assert all(symbol.isascii() and symbol.isprintable() and " " not in symbol for symbol in BYTE_SYMBOLS)
    assert [byte_of(symbol) for symbol in BYTE_SYMBOLS] == list(range(256))


def test_specials_are_those_of_fairseq():
    assert tuple(Dictionary().symbols) == SPECIAL_SYMBOLS


def test_symbols_survive_a_dictionary_file_and_a_line_of_tokens(tmp_path):
    path = tmp_path / "dict.txt"
    path.write_text("".join(f"{symbol} {b}\n" for b, symbol in enumerate(BYTE_SYMBOLS)))
    dictionary = Dictionary.load(str(path))
    assert dictionary.symbols[4:] == list(BYTE_SYMBOLS)
    data = bytes(range(256))
    tokens = dictionary.encode_line(" ".join(symbols_of(data)), add_if_not_exist=False, append_eos=False)
    assert tokens.tolist() == list(range(4, 260))
    assert bytes_of(dictionary.string(tokens).split()) == data


@pytest.mark.parametrize(
    "text",
    ["", " ", "plain", "  two  spaces ", "a\nb\r\n\tc\x00\x1f\x7f", "Grüße 你好 👩‍👩‍👧 ½", "<0x20> <unk> </s> @@ ▁ <"],
)
def test_encoding_text_is_lossless(text):
    bpe = build_bpe("raw_bytes")
    assert bpe.decode(bpe.encode(text)) == text
    assert bytes_of(bpe.encode(text).split()) == text.encode()


def test_bytes_that_are_no_text_decode_to_replacement_characters():
    bpe = build_bpe("raw_bytes")
    assert bpe.decode(" ".join(symbols_of(b"a\xff\xe4\xbdb"))) == "a\ufffd\ufffdb"
    assert bpe.decode("a <unk> b") == "a\ufffdb"


def test_text_that_was_read_from_invalid_utf8_encodes_to_the_bytes_it_had():
    bpe = build_bpe("raw_bytes")
    read = b"a\xffb".decode("utf-8", "surrogateescape")
    assert bytes_of(bpe.encode(read).split()) == b"a\xffb"
    assert bpe.encode("a\ud800") == "a ?"  # no bytes stand for this one
