"""What options mean on the command line.

- `--bf16` (and `--memory-efficient-bf16`, which implies it) switches fairseq (0.12) to TPUs:
  `parse_args_and_arch` sets `tpu`, and training dies without torch_xla. bfloat16 has since come to GPUs
  and CPUs, where fairseq's own code for it works. TPUs are used when `--tpu` is given. May go when
  `--bf16` no longer implies `--tpu` in fairseq.
- `fairseq-validate` without `--task` dies with `KeyError: None`, in all versions.
"""

import sys

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap


def apply() -> None:
    from fairseq import options

    @wrap(options, "parse_args_and_arch")
    def parse_args_and_arch(original, parser, input_args=None, parse_known=False, **kwargs):
        given = sys.argv[1:] if input_args is None else list(input_args)
        without_default = [a for a in parser._actions if a.dest == "task" and a.default is None]
        if without_default and not any(word == "--task" or word.startswith("--task=") for word in given):
            if not {"-h", "--help"}.intersection(given):
                raise UserError("the option --task is missing: give the task that the model was trained with")
        parsed = original(parser, input_args=input_args, parse_known=parse_known, **kwargs)
        args = parsed[0] if parse_known else parsed
        if getattr(args, "bf16", False) and "--tpu" not in given:
            args.tpu = False
        return parsed
