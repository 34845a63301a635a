"""Turn a language model that the author of SRU++ released (asappresearch/sru, branch 3.0.0-dev) into a checkpoint and a
dictionary for fairseq. The checkpoint is a file such as enwik8_base.pt, wiki103_base.pt or lm1b_base.pt, or one that
train_enwik8.py, train_wt103.py or train_lm1b.py saved. Its vocabulary is not in it: for enwik8, give --text enwik8, or
--vocab with the dict.txt that prepare-bytes makes of that file; for WikiText-103, --text wiki.train.tokens; for Billion
Word, --vocab 1b_word_vocab.txt, the file of words that the author's code reads."""

import argparse
import contextlib
import itertools
import logging
import os
from typing import TYPE_CHECKING, Any, Dict, List

from torch import Tensor

from fairseq_srupp.compat.errors import UserError, user_errors
from fairseq_srupp.compat.files import weights_only
from fairseq_srupp.compat.files.atomic import atomic_write
from fairseq_srupp.compat.files.saving import save_whole
from fairseq_srupp.compat.user_dir import load_plugin
from fairseq_srupp.data.released_vocabulary import ReleasedVocabulary, byte_vocabulary, word_vocabulary

if TYPE_CHECKING:  # this import takes all of fairseq with it
    from fairseq_srupp.models.released_checkpoint import ReleasedModel

_COMMAND = "import-checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--checkpoint", metavar="FILE", required=True, help="the author's .pt file")
    vocabulary = parser.add_mutually_exclusive_group(required=True)
    vocabulary.add_argument(
        "--vocab",
        metavar="FILE",
        help="of bytes: a dict.txt of prepare-bytes; of words: a list in his order, the first word of each line",
    )
    vocabulary.add_argument("--text", metavar="FILE", help="enwik8 or wiki.train.tokens, which the vocabulary is of")
    parser.add_argument(
        "--attention-heads", metavar="N", type=int, default=1, help="the checkpoint does not tell them (default: 1)"
    )
    parser.add_argument(
        "--mem-len",
        metavar="M",
        type=int,
        help="how many positions before it each position sees, the author's --eval_unroll_size (default: as in his "
        "results, 3072 for enwik8, 2560 for WikiText-103, 96 for Billion Word)",
    )
    parser.add_argument("--destdir", metavar="DIR", required=True, help="folder to write checkpoint.pt and dict.txt to")


def run(args: argparse.Namespace) -> int:
    """Write the checkpoint and the dictionary.

    Raises:
        UserError: a file that is missing, damaged or not what it should be, or options that do not fit it.
    """
    logging.basicConfig(level=logging.WARNING)  # fairseq's tasks would set it up to tell of themselves
    load_plugin()
    from fairseq_srupp.models.released_checkpoint import convert, read_model

    state = _read(args.checkpoint)
    try:
        model = read_model(state)
        _check_options(args, model)
    except ValueError as error:
        _fail(f"{args.checkpoint}: {error}")
    vocabulary = _vocabulary(args, model)
    options = _options(args, model, vocabulary)
    checkpoint = _checkpoint(convert(state, model, vocabulary.source), options, args.destdir)
    _write(args.destdir, checkpoint, "".join(f"{line}\n" for line in vocabulary.lines).encode())
    print(f"{args.checkpoint}: a model of {sum(model.bands):,} {'words' if model.adaptive else 'bytes'}")
    print(f"checkpoint.pt and dict.txt are in {args.destdir}; to train it further:")
    print(f"  --finetune-from-model {os.path.join(args.destdir, 'checkpoint.pt')} {' '.join(options)}")
    return 0


def _read(path: str) -> Dict[str, Tensor]:
    state = weights_only.load(path)
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        _fail(f"{path} is a checkpoint of fairseq already")
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in state.items()
    ):
        _fail(f"{path} is no state dict: it holds more than tensors by name")
    return state


def _check_options(args: argparse.Namespace, model: "ReleasedModel") -> None:
    if args.attention_heads < 1 or model.attention_dim % args.attention_heads:
        raise ValueError(f"--attention-heads {args.attention_heads} must divide the attention's {model.attention_dim}")
    if args.mem_len is not None and args.mem_len < 0:
        raise ValueError(f"--mem-len must be at least 0, not {args.mem_len}")


def _vocabulary(args: argparse.Namespace, model: "ReleasedModel") -> ReleasedVocabulary:
    path, symbols = args.text or args.vocab, sum(model.bands)
    try:
        with user_errors(ValueError, command=_COMMAND):
            if not model.adaptive:
                return byte_vocabulary(path, is_text=bool(args.text), symbols=symbols)
            return word_vocabulary(path, is_text=bool(args.text), symbols=symbols, first_band=model.bands[0])
    except OSError as error:
        _fail(f"{path}: {error.strerror or error}")


def _options(args: argparse.Namespace, model: "ReleasedModel", vocabulary: ReleasedVocabulary) -> List[str]:
    """Those of fairseq-train that make this model."""
    window = 3072 if not model.adaptive else 2560 if model.tied_projections else 96
    options = ["--task", "streaming_language_modeling", "--arch", "srupp_lm", "--layers", model.layers]
    options += ["--hidden-size", model.hidden_size, "--attention-dim", model.attention_dim]
    options += ["--attention-heads", args.attention_heads, "--attention-norm", "post" if model.norm else "none"]
    if model.attention_layers:
        options += ["--attention-layers", ",".join(map(str, model.attention_layers))]
    else:
        options += ["--no-attention"]
    options += ["--mem-len", window if args.mem_len is None else args.mem_len]
    if model.adaptive:
        # The first band holds fairseq's special symbols as well.
        ends = itertools.accumulate([len(vocabulary.source), *model.bands[1:-1]])
        options += ["--adaptive-input", "--adaptive-softmax-cutoff", ",".join(map(str, ends))]
        options += ["--adaptive-input-factor", model.factor, "--adaptive-softmax-factor", model.factor]
        options += ["--embed-dim", model.band_dims[0], "--tie-adaptive-weights"]
        options += ["--tie-adaptive-proj"] if model.tied_projections else []
        options += ["--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp"]
    return [str(option) for option in options]


def _checkpoint(parameters: Dict[str, Tensor], options: List[str], data: str) -> Dict[str, Any]:
    """What fairseq saves of a model before its first update."""
    from fairseq import options as fairseq_options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from omegaconf import OmegaConf

    args = fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), [data, *options])
    cfg = OmegaConf.to_container(convert_namespace_to_omegaconf(args), resolve=True, enum_to_str=True)
    history = {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 0}
    return {
        "args": None,
        "cfg": cfg,
        "model": parameters,
        "criterion": None,
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0, "version": 2}},
    }


def _write(destdir: str, checkpoint: Dict[str, Any], dictionary: bytes) -> None:
    """Both files or none; a dict.txt that is there may belong to data, and stays unless it is the same."""
    path, existed = os.path.join(destdir, "dict.txt"), os.path.isdir(destdir)
    try:
        os.makedirs(destdir, exist_ok=True)
        if os.path.exists(path):
            with open(path, "rb") as file:
                if file.read() != dictionary:
                    _fail(f"{path} is another vocabulary; give another --destdir")
        with atomic_write(path) as file:
            file.write(dictionary)
            save_whole(checkpoint, os.path.join(destdir, "checkpoint.pt"))
    except OSError as error:
        _fail(f"cannot write to --destdir {destdir}: {error.strerror or error}")
    finally:
        if not existed:
            with contextlib.suppress(OSError):  # it is not empty, or was not made
                os.rmdir(destdir)


def _fail(message: str) -> None:
    raise UserError(message, command=_COMMAND)
