"""What `generate` and `score` share: the model, and the texts that are given to it."""

import argparse
import contextlib
import os
import sys
import tempfile
from typing import Any, Iterator, List, Tuple

from fairseq_srupp.cli import export
from fairseq_srupp.compat.errors import UserError, user_errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options that both have."""
    parser.add_argument("model", metavar="MODEL", help="a folder of `export`, or a checkpoint")
    parser.add_argument("files", metavar="FILE", nargs="*", help="texts, one a line (default: standard input)")
    parser.add_argument("--data", metavar="DIR", help="of a checkpoint: folder with the dictionaries")
    parser.add_argument("--sentencepiece-model", metavar="FILE", help="of a checkpoint: whose pieces its words are")
    parser.add_argument("--int8", action="store_true", help="matrix products and embeddings in int8, on a CPU")


def load(args: argparse.Namespace, command: str) -> Tuple[Any, Any]:
    """Model in evaluation and tokenizer.

    Raises:
        UserError: what MODEL names is neither, or is damaged.
    """
    try:
        import transformers

        import fairseq_srupp.hf  # noqa: F401 (registers the models)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed: pip install transformers safetensors", command) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with contextlib.ExitStack() as stack:
        folder = args.model
        if os.path.isfile(folder):
            folder = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "model")
            with contextlib.redirect_stdout(sys.stderr):
                given = {"checkpoint": args.model, "destdir": folder, "dtype": "fp32"}
                export.run(argparse.Namespace(**{**vars(args), **given}))
        elif not os.path.isfile(os.path.join(folder, "config.json")):
            raise UserError(f"{folder} is no folder of `export` (it has no config.json), and no checkpoint", command)
        with user_errors(ValueError, OSError, command=command):
            kind = transformers.AutoConfig.from_pretrained(folder).model_type
            if kind not in ("srupp_lm", "srupp_transformer"):
                raise ValueError(f"{folder} is a {kind}, not a model of `export`")
            auto = transformers.AutoModelForCausalLM if kind == "srupp_lm" else transformers.AutoModelForSeq2SeqLM
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            return auto.from_pretrained(folder, int8=args.int8).eval(), tokenizer


def lines(files: List[str], command: str) -> Iterator[str]:
    """The lines of files, or of standard input, without their ends. Bytes that are not UTF-8 come as Python keeps them."""
    for path in files or ["-"]:
        try:
            with open(sys.stdin.fileno() if path == "-" else path, "rb", closefd=path != "-") as file:
                for line in file:
                    yield line.decode("utf-8", "surrogateescape").rstrip("\r\n")
        except OSError as error:
            raise UserError(f"{path}: {error.strerror or error}", command) from error


def progress(text: str, end: str = "\r") -> None:
    """Tell how far it is, where somebody looks."""
    if sys.stderr.isatty():
        print(f"{text}   ", end=end, file=sys.stderr, flush=True)
