"""When --compile compiles: in training, and in the validation that belongs to it."""

import functools
import os
import shlex
import shutil
import sys

from fairseq.models import BaseFairseqModel

from ..compat.errors import UserError
from ..modules import SRUppStack


class CompiledInTraining(BaseFairseqModel):
    """A model whose stacks, if they are compiled, are so for training alone: who only loads it needs no compiler."""

    def train(self, mode: bool = True):
        if mode and any(stack.compiled for stack in self._stacks()):
            check_compiler()
        return super().train(mode)

    def make_generation_fast_(self, **kwargs) -> None:
        """fairseq calls this before evaluation and generation, which are over before compiling has paid."""
        super().make_generation_fast_(**kwargs)
        for stack in self._stacks():
            stack.compiled = False

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
