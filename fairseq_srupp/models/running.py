"""How a model is run: compiled in training (--compile), in int8 or bf16 in generation and evaluation."""

import functools
import os
import shlex
import shutil
import sys

from fairseq.models import BaseFairseqModel

from ..compat.errors import UserError, user_errors
from ..modules import SRUppStack
from ..modules.int8 import RunsInInt8


class RunAsAsked(RunsInInt8, BaseFairseqModel):
    """A model whose stacks, if they are compiled, are so in training and in the validation that belongs to it: who only loads
    it needs no compiler. In int8 (the option of the model) or bf16 (fairseq's --bf16) it is in generation and evaluation alone."""

    def train(self, mode: bool = True):
        """In evaluation too, which all of fairseq's commands ask for, the model is brought into int8.

        Raises:
            UserError: training in int8, int8 elsewhere than on a CPU, or --compile without a compiler.
        """
        if mode and any(stack.compiled for stack in self._stacks()):
            check_compiler()
        with user_errors(ValueError):
            return super().train(mode)

    def make_generation_fast_(self, **kwargs) -> None:
        """fairseq calls this before evaluation and generation, which are over before compiling has paid."""
        super().make_generation_fast_(**kwargs)
        for stack in self._stacks():
            stack.compiled = False

    def prepare_for_inference_(self, cfg) -> None:
        """fairseq calls this before generation and fairseq-eval-lm's evaluation, with its whole configuration."""
        super().prepare_for_inference_(cfg)
        # fairseq's hub gives the configuration of the training, which has no path.
        if not self.int8 and hasattr(cfg, "common") and cfg.common.bf16 and cfg.common_eval.path:
            self.bfloat16()

    def _stacks(self):
        return (module for module in self.modules() if isinstance(module, SRUppStack))


@functools.cache
def check_compiler() -> None:
    """That there is the C++ compiler with which torch.compile builds what it generates.

    Raises:
        UserError: there is none.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise UserError(
            f"--compile needs a C++ compiler, and there is no {compiler} (Debian: apt-get install g++; CXX names another)"
        )
