"""What options mean on the command line.

- `--bf16` (and `--memory-efficient-bf16`, which implies it) switches fairseq (0.12) to TPUs:
  `parse_args_and_arch` sets `tpu`, and training dies without torch_xla. bfloat16 has since come to GPUs
  and CPUs, where fairseq's own code for it works. TPUs are used when `--tpu` is given. May go when
  `--bf16` no longer implies `--tpu` in fairseq.
- `fairseq-validate` without `--task` dies with `KeyError: None`, in all versions, and the commands that read a model
  die in as many ways without `--path`.
- A mistake that argparse finds is told without the list of all options, which fills more than a screen (--help has it).
- `--fp16` with `--bf16` is refused with a text about TPUs.
- What cannot be is refused (option_values.py, model_overrides.py).
"""

import sys

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.options import model_overrides, option_values
from fairseq_srupp.compat.patch import wrap

_NEEDED = {"task": "the task that the model was trained with", "path": "the checkpoint of the model"}

_FP16 = {"--fp16", "--memory-efficient-fp16"}
_BF16 = {"--bf16", "--memory-efficient-bf16"}


def _check_needed(parser, words) -> None:
    """Raises: UserError when an option that the command cannot do without is not among the `words`."""
    if {"-h", "--help"}.intersection(words):
        return
    for action in parser._actions:
        if action.dest not in _NEEDED or action.default is not None or words.intersection(action.option_strings):
            continue
        option = f"--{action.dest}"
        short = next((word for word in words if len(word) > 2 and option.startswith(word)), None)
        if short is None:
            raise UserError(f"the option {option} is missing: give {_NEEDED[action.dest]}")
        if not parser.allow_abbrev:
            raise UserError(f"{short}: options are not abbreviated here, write {option}")


def apply() -> None:
    from fairseq import options

    @wrap(options, "parse_args_and_arch")
    def parse_args_and_arch(original, parser, input_args=None, parse_known=False, **kwargs):
        given = sys.argv[1:] if input_args is None else list(input_args)
        words = {word.split("=")[0] for word in given if isinstance(word, str)}
        _check_needed(parser, words)
        if words & _FP16 and words & _BF16 and "--tpu" not in words:
            raise UserError(f"{min(words & _FP16)} and {min(words & _BF16)} exclude each other")
        parser.print_usage = lambda file=None: None
        parsed = original(parser, input_args=input_args, parse_known=parse_known, **kwargs)
        args = parsed[0] if parse_known else parsed
        if getattr(args, "bf16", False) and "--tpu" not in words:
            args.tpu = False
        if getattr(args, "arch", None) == "srupp_lm" and not hasattr(args, "tokens_per_sample"):
            raise UserError(f"--arch srupp_lm needs --task streaming_language_modeling, not {args.task}")
        option_values.check_arguments(parser, args)
        if isinstance(getattr(args, "model_overrides", None), str):
            model_overrides.remember(args.model_overrides)
        return parsed
