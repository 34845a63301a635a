"""Train a SentencePiece model, or encode lines with one: `spm.py train MODEL VOCAB FILE...`, `spm.py encode MODEL IN OUT`."""

import os
import sys
import tempfile

import sentencepiece


def train(model: str, vocabulary: int, files: list) -> None:
    """Train a BPE model of `vocabulary` pieces on the lines of all files and write it to `model`."""
    with beside(model) as folder:
        sentencepiece.SentencePieceTrainer.train(
            input=files,
            model_prefix=os.path.join(folder, "spm"),
            vocab_size=vocabulary,
            model_type="bpe",
            character_coverage=1.0,
            minloglevel=2,  # errors are raised as well; it leaves out too long lines, of which it would warn four lines long
        )
        os.replace(os.path.join(folder, "spm.model"), model)


def encode(model: str, source: str, target: str) -> None:
    """Write the pieces of each line of `source`, separated by spaces, to `target`."""
    processor = sentencepiece.SentencePieceProcessor(model_file=model)
    with beside(target) as folder:
        whole = os.path.join(folder, "text")
        with open(source, "rb") as lines, open(whole, "w", encoding="utf-8") as out:
            for number, line in enumerate(lines, 1):  # bytes: lines end at \n alone, as those of the other language
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise ValueError(f"{source}, line {number}: not UTF-8 (byte 0x{line[error.start]:02x})") from None
                if "\0" in text:
                    raise ValueError(f"{source}, line {number}: a NUL byte, which no text holds")
                out.write(" ".join(processor.encode(text.strip(), out_type=str)) + "\n")
        os.replace(whole, target)


def beside(path: str) -> tempfile.TemporaryDirectory:
    """A folder of a new name in that of `path`, for what is not whole yet."""
    return tempfile.TemporaryDirectory(prefix="spm.", dir=os.path.dirname(path) or ".")


def main() -> None:
    command, model, *rest = sys.argv[1:]
    try:
        if command == "train":
            train(model, int(rest[0]), rest[1:])
        else:
            encode(model, *rest)
    except (RuntimeError, OSError, ValueError) as error:  # too many pieces for the text, unreadable text or model
        sys.exit(f"spm.py: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()
