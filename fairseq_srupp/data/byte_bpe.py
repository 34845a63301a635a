"""`--bpe raw_bytes`: text to the byte tokens of `prepare-bytes` and back, for fairseq-interactive and the hub.

fairseq's own `--bpe bytes` turns every run of white space into one space and has symbols of its own.
"""

from dataclasses import dataclass

from fairseq.data.encoders import register_bpe
from fairseq.dataclass import FairseqDataclass

from .byte_symbols import symbols_of_text, text_of


@dataclass
class RawBytesConfig(FairseqDataclass):
    """No options."""


@register_bpe("raw_bytes", dataclass=RawBytesConfig)
class RawBytes:
    """Each byte of the UTF-8 text is one token; `decode(encode(x)) == x` for every text x that is valid Unicode."""

    def __init__(self, cfg: RawBytesConfig):
        pass

    @staticmethod
    def encode(text: str) -> str:
        """Byte symbols separated by spaces. Bytes that were not UTF-8 when Python read them come out as they were."""
        return " ".join(symbols_of_text(text))

    @staticmethod
    def decode(symbols: str) -> str:
        """Text of byte symbols separated by spaces; U+FFFD where the bytes are not UTF-8 or a symbol is no byte's."""
        return text_of(symbols.split())
