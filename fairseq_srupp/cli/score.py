"""How probable texts are, one a line, to a language model, or translations, each after its source and a tab. For each
line it prints the natural logarithm of the probability and, after a tab, the bits per token (of bytes: per byte). To a
model of streams the first token is given."""

import argparse
import math
from typing import Any, Iterator, List, Tuple

import torch

from fairseq_srupp.cli import running
from fairseq_srupp.compat.errors import UserError

_COMMAND = "score"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    running.add_arguments(parser)
    parser.add_argument("--whole-files", action="store_true", help="each file is one text, not each line")


def run(args: argparse.Namespace) -> int:
    """Print a line for each text.

    Raises:
        UserError: a mistake in options or files.
    """
    model, tokenizer = running.load(args, _COMMAND)
    translates = model.config.is_encoder_decoder
    if args.whole_files and (translates or not args.files):
        raise UserError(f"--whole-files needs {'a language model' if translates else 'files'}", _COMMAND)
    for number, text in enumerate(_texts(args), start=1):
        if translates:
            total, count = _translation(model, tokenizer, text, number)
        else:
            total, count = _text(model, tokenizer, text)
        print(f"{total:.4f}\t{0 - total / math.log(2) / max(1, count):.4f}", flush=True)
        running.progress(f"{number:,} texts")
    return 0


def _texts(args: argparse.Namespace) -> Iterator[str]:
    if not args.whole_files:
        yield from running.lines(args.files, _COMMAND)
    for path in args.files if args.whole_files else []:
        try:
            with open(path, "rb") as file:
                yield file.read().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}", _COMMAND) from error


def _text(model: Any, tokenizer: Any, text: str) -> Tuple[float, int]:
    """Log-probability, and of how many tokens."""
    texts = [text] if tokenizer.kind == "bytes" else text.split("\n")  # a sentence a line, as fairseq-preprocess reads them
    if len(texts) > 1 and not texts[-1]:
        texts.pop()
    ids: List[int] = [2] if model.config.mem_len is None else []
    for numbers in tokenizer(texts)["input_ids"]:
        ids += numbers
    if len(ids) < 2:
        return 0.0, 0
    scores, _ = model.score(torch.tensor([ids]))
    return scores.double().sum().item(), scores.numel()


@torch.no_grad()
def _translation(model: Any, tokenizer: Any, line: str, number: int) -> Tuple[float, int]:
    source, tab, target = line.partition("\t")
    if not tab:
        raise UserError(f"line {number} has no tab between source and translation", _COMMAND)
    batch = tokenizer([source], text_target=[target], return_tensors="pt")
    scores = model(**batch).logits.float().log_softmax(-1).gather(-1, batch["labels"].unsqueeze(-1))
    return scores.double().sum().item(), scores.numel()
