"""Translate sentences, or continue texts, whichever MODEL does, one a line: a model of `export` or a checkpoint."""

import argparse
import itertools
import sys
from typing import Any, Dict, List

import torch

from fairseq_srupp.cli import running
from fairseq_srupp.compat.errors import user_errors
from fairseq_srupp.data.byte_symbols import BYTE_SYMBOLS

_COMMAND = "generate"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    running.add_arguments(parser)
    parser.add_argument("--batch-size", metavar="N", type=_whole, default=32, help="lines at a time (default: 32)")
    parser.add_argument("--beam", metavar="N", type=_whole, help="width of the search (default: 5, of language models 1)")
    parser.add_argument("--sampling", action="store_true", help="draw each token by its probability")
    parser.add_argument("--top-k", metavar="K", type=int, default=0, help="only from the K most probable")
    parser.add_argument("--top-p", metavar="P", type=float, default=1.0, help="only from the most probable, P together")
    parser.add_argument("--temperature", metavar="T", type=float, default=1.0, help="scores are divided by it")
    parser.add_argument("--max-tokens", metavar="N", type=_whole, default=201, help="at most, for each line (default: 201)")
    parser.add_argument("--seed", metavar="N", type=int, default=1, help="of sampling (default: 1)")


def _whole(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Print a line, or for a text of bytes what it is, for each line.

    Raises:
        UserError: a mistake in options or files.
    """
    model, tokenizer = running.load(args, _COMMAND)
    torch.manual_seed(args.seed)
    options = _options(args, model.config.is_encoder_decoder)
    done, waiting = 0, running.lines(args.files, _COMMAND)
    together = 1 if not args.files and sys.stdin.isatty() else 16 * args.batch_size
    while texts := list(itertools.islice(waiting, together)):
        results: Dict[int, str] = {}
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for begin in range(0, len(order), args.batch_size):
            batch = order[begin : begin + args.batch_size]
            with user_errors(ValueError, command=_COMMAND):
                results.update(zip(batch, _generate(model, tokenizer, [texts[i] for i in batch], options)))
            running.progress(f"{done + len(results):,} lines")
        for i in range(len(texts)):
            sys.stdout.buffer.write(f"{results[i]}\n".encode("utf-8", "surrogateescape"))
        sys.stdout.flush()
        done += len(texts)
    return 0


def _options(args: argparse.Namespace, translates: bool) -> Dict[str, Any]:
    options: Dict[str, Any] = {"max_new_tokens": args.max_tokens, "do_sample": args.sampling}
    options["num_beams"] = args.beam or (5 if translates and not args.sampling else 1)
    options["early_stopping"] = options["num_beams"] > 1
    if args.sampling:
        options.update(top_k=args.top_k, top_p=args.top_p, temperature=args.temperature)
    return options


def _generate(model: Any, tokenizer: Any, texts: List[str], options: Dict[str, Any]) -> List[str]:
    translates = model.config.is_encoder_decoder
    batch = tokenizer(texts, add_special_tokens=translates)
    if not translates:  # an empty text begins as fairseq's task has it, with a new line or an end of sentence
        first = tokenizer.convert_tokens_to_ids(BYTE_SYMBOLS[ord("\n")]) if tokenizer.kind == "bytes" else 2
        batch["input_ids"] = [ids or [first] for ids in batch["input_ids"]]
        batch["attention_mask"] = [[1] * len(ids) for ids in batch["input_ids"]]
    batch = tokenizer.pad(batch, return_tensors="pt")
    found = model.generate(**batch, **options)
    if translates:
        return tokenizer.batch_decode(found, skip_special_tokens=True)
    begins = batch["attention_mask"].size(1) - batch["attention_mask"].sum(1)
    return [tokenizer.decode(row[begin:], skip_special_tokens=True) for row, begin in zip(found, begins)]
