"""The tokenizer for transformers: text to the numbers that fairseq gives it, and back."""

import json
import os
from typing import Any, Dict, List, Optional, Tuple

from transformers import PreTrainedTokenizer

from ..data.byte_symbols import SPECIAL_SYMBOLS, symbols_of_text, text_of

KINDS = ("bytes", "words", "sentencepiece")


class SRUppTokenizer(PreTrainedTokenizer):
    """Symbols of fairseq's dictionaries.

    Args:
        vocab_file: a list in JSON of all symbols, in the order of their numbers.
        target_vocab_file: the same of the target, where that has a dictionary of its own: `text_target=` is encoded with it,
            and `decode` takes all numbers for its.
        sentencepiece_file: the model of `kind` sentencepiece.
        kind: what text becomes: "bytes", "words" between white space, or pieces of "sentencepiece".
        special_tokens_pattern: "eos": the end of sentence follows, as in fairseq's `encode_line`; "none".

    Raises:
        ValueError: a file that is not what it should be.
    """

    vocab_files_names = {
        "vocab_file": "vocab.json",
        "target_vocab_file": "target_vocab.json",
        "sentencepiece_file": "sentencepiece.model",
    }
    model_input_names = ["input_ids", "attention_mask"]

    def __init__(
        self,
        vocab_file: str,
        target_vocab_file: Optional[str] = None,
        sentencepiece_file: Optional[str] = None,
        kind: str = "words",
        special_tokens_pattern: str = "eos",
        **kwargs: Any,
    ):
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        self.kind = kind
        self._source = _read(vocab_file)
        self._target = _read(target_vocab_file) if target_vocab_file else self._source
        self._numbers = {id(symbols): {s: i for i, s in enumerate(symbols)} for symbols in (self._source, self._target)}
        self._encoded = self._source
        self._files = {"vocab_file": vocab_file, "target_vocab_file": target_vocab_file}
        if kind == "sentencepiece":
            self._files["sentencepiece_file"] = sentencepiece_file
            self._pieces = _load_pieces(sentencepiece_file)
        for name, symbol in zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL_SYMBOLS):
            kwargs.setdefault(name, symbol)
        super().__init__(kind=kind, special_tokens_pattern=special_tokens_pattern, **kwargs)
        self.init_kwargs["special_tokens_pattern"] = special_tokens_pattern  # or it would not be saved

    @property
    def vocab_size(self) -> int:
        return len(self._source)

    def get_vocab(self) -> Dict[str, int]:
        return dict(self._numbers[id(self._source)])

    def tokenize(self, text: str, **kwargs: Any) -> List[str]:
        """Symbols of a text; those that look special are as ordinary as others, as in fairseq."""
        if self.kind == "bytes":
            return symbols_of_text(text)
        if self.kind == "sentencepiece":
            text = " ".join(self._pieces.encode(text, out_type=str))
        return text.split()

    def convert_tokens_to_string(self, tokens: List[str]) -> str:
        """Text of symbols."""
        if self.kind == "bytes":
            return text_of(tokens)
        if self.kind == "sentencepiece":
            return "".join(tokens).replace("\u2581", " ").strip()
        return " ".join(tokens)

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        if isinstance(tokens, str):
            return self._numbers[id(self._encoded)].get(tokens, SPECIAL_SYMBOLS.index("<unk>"))
        return None if tokens is None else [self.convert_tokens_to_ids(token) for token in tokens]

    _convert_token_to_id = convert_tokens_to_ids

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        if isinstance(ids, int):
            return self._target[ids] if 0 <= ids < len(self._target) else str(self.unk_token)
        # fairseq shows what is unknown
        skipped = (self.bos_token_id, self.pad_token_id, self.eos_token_id) if skip_special_tokens else ()
        return [self.convert_ids_to_tokens(int(number)) for number in ids if int(number) not in skipped]

    def save_vocabulary(self, save_directory: str, filename_prefix: Optional[str] = None) -> Tuple[str, ...]:
        paths = []
        for name, path in self._files.items():
            if path:
                with open(path, "rb") as file:
                    content = file.read()
                prefix = f"{filename_prefix}-" if filename_prefix else ""
                paths.append(os.path.join(save_directory, prefix + self.vocab_files_names[name]))
                with open(paths[-1], "wb") as file:
                    file.write(content)
        return tuple(paths)

    def _switch_to_input_mode(self) -> None:
        self._encoded = self._source

    def _switch_to_target_mode(self) -> None:
        self._encoded = self._target


def _read(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8") as file:
            symbols = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols) or symbols[:4] != list(SPECIAL_SYMBOLS):
        raise ValueError(f"{path} is no list of symbols that begins with {', '.join(SPECIAL_SYMBOLS)}")
    return symbols


def _load_pieces(path: Optional[str]) -> Any:
    if path is None:
        raise ValueError("a tokenizer of kind sentencepiece needs a file sentencepiece.model, and there is none")
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{path} is no model of SentencePiece: {' '.join(str(error).split())}") from error
