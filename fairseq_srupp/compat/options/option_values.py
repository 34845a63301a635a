"""Values that options cannot have: refused before anything is read, wherever they are given.

fairseq (0.12) takes every number. NaN goes through to the weights or is ignored; 0 where something is counted ends in a
division by zero, which in `--required-batch-size-multiple` kills the process. Checked are the command line, the
configuration of fairseq-hydra-train, `--model-overrides` and `--eval-bleu-args`; defaults are fairseq's own affair. May
go when fairseq checks its options.
"""

import argparse
import ast
import contextlib
import json
import math
from collections.abc import Sequence
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.options.literals import literal
from fairseq_srupp.compat.patch import wrap, wrap_command

Bounds = Tuple[Optional[float], Optional[float]]

_AT_LEAST_ONE: Bounds = (1, None)
_AT_LEAST_ZERO: Bounds = (0, None)
_PROBABILITY: Bounds = (0, 1)
_BOUNDS: Dict[str, Bounds] = {
    **dict.fromkeys("batch_size batch_size_valid max_tokens max_tokens_valid".split(), _AT_LEAST_ONE),
    **dict.fromkeys("required_batch_size_multiple update_freq tokens_per_sample".split(), _AT_LEAST_ONE),
    **dict.fromkeys("log_interval save_interval validate_interval distributed_world_size".split(), _AT_LEAST_ONE),
    **dict.fromkeys("total_num_update beam nbest num_shards".split(), _AT_LEAST_ONE),
    **dict.fromkeys("num_workers max_update max_epoch max_valid_steps warmup_updates".split(), _AT_LEAST_ZERO),
    **dict.fromkeys("lr weight_decay adam_eps prefix_size context_window softmax_batch".split(), _AT_LEAST_ZERO),
    **dict.fromkeys("label_smoothing ema_decay quant_noise_pq".split(), _PROBABILITY),
    **dict.fromkeys("encoder_layerdrop decoder_layerdrop".split(), _PROBABILITY),
    "sampling_topp": (None, 1),  # below 0: not used
    "seed": (0, 2**32 - 1),
}
_MODEL_SIZES = ("_embed_dim", "_attention_heads", "_ffn_embed_dim", "_input_dim", "_output_dim")
# Infinity has a meaning: no clipping, never an unknown word, no limit of time.
_MAY_BE_INFINITE = ("clip_norm", "unkpen", "stop_time_hours", "unk_weight")
_LISTS = ("lr", "update_freq")  # at least one value


def on_command_line(name: str) -> str:
    """How an option is called there."""
    return "--" + name.replace("_", "-")


def check(options: Mapping[str, Any], called: Callable[[str], str] = on_command_line) -> None:
    """Raises: UserError for the first value that its option cannot have; `called` gives the name to tell."""
    for name, value in options.items():
        if name in _LISTS and isinstance(value, (list, tuple)) and not value:
            raise UserError(f"{called(name)} is empty: expected at least one number")
        for number in _numbers(value):
            _check_number(name, number, called(name))
        if name.endswith("_betas"):
            betas(value, called(name))
        if name == "eval_bleu_args" and isinstance(value, str):
            _check_generation(value, called(name))
        if name == "eval_bleu_detok" and isinstance(value, str):
            from fairseq.registry import REGISTRIES

            known = REGISTRIES["tokenizer"]["registry"]
            if value not in known:
                raise UserError(f"{called(name)} {value} is not known; there are {', '.join(sorted(known))}")


def betas(value: Any, called: str = "--adam-betas") -> Tuple[float, ...]:
    """The two numbers of an option such as `--adam-betas`, text or a list.

    Raises: UserError unless they are two, from 0 to below 1.
    """
    if isinstance(value, str):
        with contextlib.suppress(ValueError):  # text that is no value is told below
            value = literal(value)
    numbers = tuple(_numbers(list(value))) if isinstance(value, Sequence) else ()
    if len(numbers) != 2 or not all(0 <= number < 1 for number in numbers):
        raise UserError(f"{called} is {str(value)[:99]}: expected two numbers from 0 to below 1, as '(0.9, 0.999)'")
    return numbers


def check_together(options: Mapping[str, Any]) -> None:
    """Raises: UserError for values that exclude each other. `options` has one command's options by their names."""
    get = options.get
    if isinstance(get("nbest"), int) and isinstance(get("beam"), int) and get("nbest") > get("beam"):
        raise UserError(f"--nbest {get('nbest')} is more than --beam {get('beam')} can find")
    context, segment = get("context_window"), get("tokens_per_sample")
    if isinstance(context, int) and isinstance(segment, int) and context >= segment > 0:
        raise UserError(f"--context-window {context} must be smaller than --tokens-per-sample {segment}")
    if get("lr_scheduler") == "inverse_sqrt" and get("warmup_updates") == 0:
        raise UserError("--lr-scheduler inverse_sqrt needs --warmup-updates of at least 1")


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers(item)


def _check_number(name: str, number: float, called: str) -> None:
    if math.isnan(number) or (math.isinf(number) and name not in _MAY_BE_INFINITE):
        raise UserError(f"{called} must be a finite number, not {number}")
    low, high = _bounds(name)
    if low is not None and high is not None and not low <= number <= high:
        raise UserError(f"{called} must be between {low} and {high}, not {number}")
    if low is not None and number < low:
        raise UserError(f"{called} must be at least {low}, not {number}")
    if high is not None and number > high:
        raise UserError(f"{called} must be at most {high}, not {number}")


def _bounds(name: str) -> Bounds:
    if name.endswith("dropout"):
        return _PROBABILITY
    return _AT_LEAST_ONE if name.endswith(_MODEL_SIZES) else _BOUNDS.get(name, (None, None))


def _check_generation(text: str, called: str) -> None:
    """`text` is JSON, with options of fairseq-generate."""
    from fairseq.dataclass.configs import GenerationConfig

    try:
        options = json.loads(text or "{}")
    except ValueError:
        options = None
    if not isinstance(options, dict):
        raise UserError(f"{called} {text}: expected JSON such as '{{\"beam\": 4}}'")
    for name in options:
        if name not in GenerationConfig.__dataclass_fields__:
            raise UserError(f"{called}: fairseq-generate has no option {name}")
    check(options, lambda name: f"{called} {name}")
    check_together(options)


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Raises: UserError for a value on the command line that its option cannot have."""
    options = {action.dest: action.default for action in parser._actions}
    given = {name: value for name, value in vars(args).items() if name in options and value is not options[name]}
    check(given)
    check_together(vars(args))


def _check_config(cfg: Any) -> None:
    """The same for fairseq-hydra-train, whose options are in groups; options that were left out are not in them yet."""
    from omegaconf import OmegaConf

    together = {}
    for group, options in OmegaConf.to_container(cfg).items():
        if isinstance(options, dict):
            check(options, lambda name: f"{group}.{name}")
            together.update(options, **{group: options.get("_name")})
    check_together(together)


def _check_untyped(data_class: Any, args: argparse.Namespace) -> None:
    """Raises: UserError as `check`, for options of `data_class` whose default is another option ("${...}"): on the
    command line they are text, which is read later."""
    from fairseq.dataclass.utils import interpret_dc_type

    for name, field in getattr(data_class, "__dataclass_fields__", {}).items():
        text, kind = getattr(args, name, None), interpret_dc_type(field.type)
        if isinstance(text, str) and not text.startswith("${") and kind in (int, float):
            try:
                value = ast.literal_eval(text)
            except (SyntaxError, ValueError):
                raise UserError(f"{on_command_line(name)} must be a number ({kind.__name__}), not {text}") from None
            check({name: value})


def apply() -> None:
    from fairseq.dataclass import utils
    from fairseq.tasks.fairseq_task import FairseqTask
    from hydra.core.hydra_config import HydraConfig

    @wrap_command("train", "add_defaults")
    def add_defaults(original, cfg):
        if HydraConfig.initialized():  # on the command line they have been checked
            _check_config(cfg)
        original(cfg)

    @wrap(utils, "eval_str_list")
    def eval_str_list(original, *args, **kwargs):
        try:
            return original(*args, **kwargs)
        except SyntaxError as error:
            raise ValueError(error) from error  # which argparse expects: it names the option

    @wrap(utils, "_override_attr")
    def override_attr(original, sub_node, data_class, args):
        _check_untyped(data_class, args)
        return original(sub_node, data_class, args)

    @wrap(FairseqTask, "build_generator")
    def build_generator(original, self, models, args, *more, **kwargs):
        words, most = self.target_dictionary, getattr(args, "sampling_topk", -1)
        if words is not None and most > len(words):
            raise UserError(f"--sampling-topk {most} is more than the dictionary has: {len(words)} symbols")
        return original(self, models, args, *more, **kwargs)

    @wrap(FairseqTask, "inference_step")
    def inference_step(original, self, generator, models, sample, prefix_tokens=None, constraints=None):
        if constraints is None and getattr(getattr(generator, "search", None), "supports_constraints", False):
            raise UserError("--constraints: only fairseq-interactive reads them (a line: text, tab, constraint)")
        return original(self, generator, models, sample, prefix_tokens=prefix_tokens, constraints=constraints)
