"""Write a checkpoint of fairseq as a folder that transformers reads without fairseq: config.json, model.safetensors and the
tokenizer. `import fairseq_srupp.hf` makes AutoModelForCausalLM, AutoModelForSeq2SeqLM and AutoTokenizer know it."""

import argparse
import contextlib
import dataclasses
import json
import logging
import os
import secrets
import shutil
from typing import Any, Dict, Iterator, List, Optional

import torch

from fairseq_srupp.compat.errors import UserError, user_errors
from fairseq_srupp.compat.files import weights_only
from fairseq_srupp.compat.user_dir import load_plugin
from fairseq_srupp.data.byte_symbols import SPECIAL_SYMBOLS, all_bytes
from fairseq_srupp.data.pieces import load_pieces

_COMMAND = "export"
_CLASSES = {"srupp_lm": "SRUppForCausalLM", "srupp_transformer": "SRUppForSeq2SeqLM"}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
_OF_RUNNING = ("_name", "checkpoint_activations", "compile", "int8", "mem_len")  # of the options; mem_len is of the task too
_SPACE = "\u2581"  # SentencePiece's

# What fairseq-generate does by default: --beam 5 --lenpen 1 --max-len-b 200 --min-len 1, and never padding.
_TRANSLATION = {
    "num_beams": 5,
    "length_penalty": 1.0,
    "early_stopping": True,
    "max_new_tokens": 201,
    "min_new_tokens": 1,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--checkpoint", metavar="FILE", required=True, help="of srupp_lm or srupp_transformer")
    parser.add_argument("--destdir", metavar="DIR", required=True, help="folder to make")
    parser.add_argument("--data", metavar="DIR", help="folder with the dictionaries (default: that of the training)")
    parser.add_argument(
        "--sentencepiece-model", metavar="FILE", help="whose pieces the dictionary's words are: text is split into them"
    )
    parser.add_argument("--dtype", choices=list(_DTYPES), default="fp32", help="of the parameters (default: fp32)")


def run(args: argparse.Namespace) -> int:
    """Write the folder, whole or not at all.

    Raises:
        UserError: a file that is missing, damaged or not what it should be, or a folder that is not empty.
    """
    try:
        from safetensors.torch import save_file
    except ModuleNotFoundError:
        _fail("safetensors is not installed: pip install safetensors")
    if os.path.lexists(args.destdir) and not (os.path.isdir(args.destdir) and not os.listdir(args.destdir)):
        _fail(f"--destdir {args.destdir} is there and not an empty folder; give another one")
    logging.basicConfig(level=logging.WARNING)
    load_plugin()
    model, kind, options, task = _load(args.checkpoint, args.data)
    source, target = task.source_dictionary, task.target_dictionary
    config = _config(model, kind, options, source, target, args.dtype)
    tokenizer = _tokenizer(kind, source, target, args.sentencepiece_model)
    # of parameters with several names the first, as hf/modeling.py expects it
    dtype = _DTYPES[args.dtype]
    tensors = {name: parameter.detach().to(dtype).contiguous() for name, parameter in model.named_parameters()}
    try:
        with _whole_folder(args.destdir) as folder:
            save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
            _write_json(folder, "config.json", config)
            _write_json(folder, "generation_config.json", _generation(kind))
            _write_json(folder, "tokenizer_config.json", tokenizer)
            _write_json(folder, "vocab.json", source.symbols)
            if kind == "srupp_transformer" and target != source:
                _write_json(folder, "target_vocab.json", target.symbols)
            if args.sentencepiece_model:
                shutil.copyfile(args.sentencepiece_model, os.path.join(folder, "sentencepiece.model"))
    except OSError as error:
        _fail(f"cannot write to --destdir {args.destdir}: {error.strerror or error}")
    count = sum(parameter.numel() for parameter in tensors.values())
    print(f"{args.destdir}: {kind} of {count:,} parameters in {args.dtype}, tokenizer of {tokenizer['kind']}")
    if tokenizer["kind"] == "words" and sum(symbol.startswith(_SPACE) for symbol in source.symbols) > len(source) / 10:
        print("its words are pieces of SentencePiece: without --sentencepiece-model, text has to be given in pieces")
    return 0


def _load(path: str, data: Optional[str]) -> Any:
    """Model in evaluation, kind, options and task of a checkpoint."""
    from fairseq import checkpoint_utils

    from fairseq_srupp.compat.inputs import known_mistakes
    from fairseq_srupp.models.srupp_lm import SRUppLanguageModel
    from fairseq_srupp.models.srupp_transformer import SRUppTransformer

    fault = weights_only.misformed(weights_only.load(path))
    if fault:
        _fail(f"{path} is not a checkpoint of fairseq: {fault}")
    overrides = {} if data is None else {"data": data}
    with known_mistakes():
        (model,), cfg, task = checkpoint_utils.load_model_ensemble_and_task([path], arg_overrides=overrides)
    if isinstance(model, SRUppLanguageModel):
        return model.eval(), "srupp_lm", cfg.model, task
    if isinstance(model, SRUppTransformer):
        return model.eval(), "srupp_transformer", cfg.model, task
    _fail(f"{path} is a {type(model).__name__}; srupp_lm and srupp_transformer can be exported")


def _config(model: Any, kind: str, options: Any, source: Any, target: Any, dtype: str) -> Dict[str, Any]:
    from fairseq.models import MODEL_DATACLASS_REGISTRY

    names = [field.name for field in dataclasses.fields(MODEL_DATACLASS_REGISTRY[kind])]
    values = {name: getattr(options, name) for name in names if name not in _OF_RUNNING}
    config = {name: getattr(value, "value", value) for name, value in values.items()}  # of choices their text
    config.update(model_type=kind, architectures=[_CLASSES[kind]], dtype=str(_DTYPES[dtype]).split(".")[1])
    if kind == "srupp_lm":
        config.update(vocab_size=len(source), mem_len=model.decoder.decoding_window, output_vocab_size=len(target))
    else:
        config.update(vocab_size=len(target), source_vocab_size=len(source))
    ids = {"bos_token_id": source.bos(), "pad_token_id": source.pad(), "eos_token_id": source.eos()}
    return {**config, **ids, "unk_token_id": source.unk()}


def _generation(kind: str) -> Dict[str, Any]:
    ids = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "suppress_tokens": [1]}
    if kind == "srupp_transformer":
        return {**ids, "decoder_start_token_id": 2, **_TRANSLATION}
    return ids


def _tokenizer(kind: str, source: Any, target: Any, pieces: Optional[str]) -> Dict[str, Any]:
    for dictionary in (source, target):
        if dictionary.symbols[:4] != list(SPECIAL_SYMBOLS):
            _fail(f"the dictionary begins with {' '.join(dictionary.symbols[:4])}, not with {' '.join(SPECIAL_SYMBOLS)}")
    config = {"tokenizer_class": "SRUppTokenizer", "padding_side": "left" if kind == "srupp_lm" else "right"}
    config["special_tokens_pattern"] = "eos"
    if pieces is not None:
        _check_pieces(pieces, [*source.symbols, *target.symbols])
        return {**config, "kind": "sentencepiece"}
    if all_bytes(source.symbols):
        return {**config, "kind": "bytes", "special_tokens_pattern": "none"}
    return {**config, "kind": "words"}


def _check_pieces(path: str, symbols: List[str]) -> None:
    with user_errors(ValueError, command=_COMMAND):
        model = load_pieces(path)
    missing = set(symbols[4:]).difference(map(model.id_to_piece, range(len(model))))
    missing = {symbol for symbol in missing if not symbol.startswith("madeupword")}
    if 2 * len(missing) > len(symbols):
        _fail(f"--sentencepiece-model {path} is not that of the dictionary: it has no {sorted(missing)[0]} and others")


@contextlib.contextmanager
def _whole_folder(path: str) -> Iterator[str]:
    """A folder that takes the name `path` when the block has ended without an error, and is removed otherwise."""
    path = os.path.abspath(path)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = f"{path}.{secrets.token_hex(8)}.tmp"
    os.mkdir(temporary)
    try:
        yield temporary
        for name in os.listdir(temporary):
            with open(os.path.join(temporary, name), "rb") as file:
                os.fsync(file.fileno())
        os.rename(temporary, path)  # onto an empty folder, or none
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_json(folder: str, name: str, content: Any) -> None:
    with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
        json.dump(content, file, indent=None if isinstance(content, list) else 2, ensure_ascii=False)


def _fail(message: str) -> None:
    raise UserError(message, command=_COMMAND)
