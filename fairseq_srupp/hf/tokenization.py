"""The tokenizer for transformers: text to the numbers that fairseq gives it, and back."""

import contextlib
import json
import os
import shutil
from typing import Any, Dict, List, Optional, Tuple

from transformers import PreTrainedTokenizer

from ..data.byte_symbols import SPECIAL_SYMBOLS, symbols_of_text, text_of
from ..data.pieces import load_pieces


class SRUppTokenizer(PreTrainedTokenizer):
    """Symbols of fairseq's dictionaries.

    Args:
        vocab_file: a list in JSON of all symbols, in the order of their numbers.
        target_vocab_file: the same of the target, where that has a dictionary of its own: `text_target=` is encoded
            with it, and `decode` takes all numbers for its.
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
        if kind not in ("bytes", "words", "sentencepiece"):
            raise ValueError(f"kind must be bytes, words or sentencepiece, not {kind!r}")
        self.kind = kind
        source = _read(vocab_file)
        self._target = _read(target_vocab_file) if target_vocab_file else source
        self._numbers = [{symbol: i for i, symbol in enumerate(symbols)} for symbols in (source, self._target)]
        self._encoder = self._numbers[0]
        self._files = (vocab_file, target_vocab_file, sentencepiece_file)
        self._pieces = load_pieces(sentencepiece_file) if kind == "sentencepiece" else None
        for name, symbol in zip(("bos_token", "pad_token", "eos_token", "unk_token"), SPECIAL_SYMBOLS):
            kwargs.setdefault(name, symbol)
        super().__init__(kind=kind, special_tokens_pattern=special_tokens_pattern, **kwargs)
        self.init_kwargs["special_tokens_pattern"] = special_tokens_pattern  # or it would not be saved

    @property
    def vocab_size(self) -> int:
        return len(self._numbers[0])

    def get_vocab(self) -> Dict[str, int]:
        return dict(self._numbers[0])

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

    def _convert_token_to_id(self, token: str) -> int:
        return self._encoder.get(token, SPECIAL_SYMBOLS.index("<unk>"))

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        if isinstance(ids, int):
            return self._target[ids] if 0 <= ids < len(self._target) else str(self.unk_token)
        # fairseq shows what is unknown
        skipped = (self.bos_token_id, self.pad_token_id, self.eos_token_id) if skip_special_tokens else ()
        return [self.convert_ids_to_tokens(int(number)) for number in ids if int(number) not in skipped]

    def save_vocabulary(self, save_directory: str, filename_prefix: Optional[str] = None) -> Tuple[str, ...]:
        paths, prefix = [], f"{filename_prefix}-" if filename_prefix else ""
        for name, path in zip(self.vocab_files_names.values(), self._files):
            if path:
                paths.append(os.path.join(save_directory, prefix + name))
                with contextlib.suppress(shutil.SameFileError):
                    shutil.copyfile(path, paths[-1])
        return tuple(paths)

    def _switch_to_input_mode(self) -> None:
        self._encoder = self._numbers[0]

    def _switch_to_target_mode(self) -> None:
        self._encoder = self._numbers[1]


def _read(path: str) -> List[str]:
    try:
        with open(path, encoding="utf-8") as file:
            symbols = json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(symbols, list) or {*map(type, symbols)} != {str} or symbols[:4] != list(SPECIAL_SYMBOLS):
        raise ValueError(f"{path} is no list of symbols that begins with {', '.join(SPECIAL_SYMBOLS)}")
    return symbols
