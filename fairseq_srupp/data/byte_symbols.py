"""How a byte is written in a dictionary: the one table that byte corpora and the byte encoder share.

Printable ASCII stands for itself; every other byte, space included, is written `<0xNN>` (two upper-case hexadecimal
digits). So no symbol holds white space or a control character, all are ASCII, and no two are equal.
"""

from typing import Iterable, List, Tuple

SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
"""What every fairseq dictionary begins with, in this order; the first byte has the index after them."""

BYTE_SYMBOLS: Tuple[str, ...] = tuple(chr(b) if 0x21 <= b <= 0x7E else f"<0x{b:02X}>" for b in range(256))
"""The symbol of each byte value."""

_BYTES = {symbol: bytes([b]) for b, symbol in enumerate(BYTE_SYMBOLS)}
_UNKNOWN = "\ufffd".encode()


def byte_of(symbol: str) -> int:
    """The value of the byte that a symbol stands for.

    Raises:
        KeyError: not the symbol of a byte.
    """
    return _BYTES[symbol][0]


def all_bytes(symbols: Iterable[str]) -> bool:
    """Whether the symbols of a dictionary are bytes: at least one is, and the rest are fairseq's own."""
    others = [symbol for symbol in symbols if symbol not in SPECIAL_SYMBOLS and not symbol.startswith("madeupword")]
    return bool(others) and all(symbol in _BYTES for symbol in others)


def symbols_of(data: bytes) -> List[str]:
    """The symbol of each byte."""
    return [BYTE_SYMBOLS[b] for b in data]


def bytes_of(symbols: Iterable[str]) -> bytes:
    """The bytes that symbols stand for; anything else (`<unk>`, say) becomes the replacement character U+FFFD."""
    return b"".join(_BYTES.get(symbol, _UNKNOWN) for symbol in symbols)


def symbols_of_text(text: str) -> List[str]:
    """The symbol of each byte of a text in UTF-8. Bytes that were not UTF-8 when Python read them come out as they were."""
    try:
        return symbols_of(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        return symbols_of(text.encode("utf-8", "replace"))


def text_of(symbols: Iterable[str]) -> str:
    """Text of byte symbols; U+FFFD where the bytes are not UTF-8 or a symbol is no byte's."""
    return bytes_of(symbols).decode("utf-8", "replace")
