"""Mistakes of the user, told in one line.

fairseq's entry points (`fairseq-train` and the others) are not ours, so a mistake has to reach the user
through them: a `SystemExit` with a message is printed by Python itself to stderr, without a traceback, and
ends the process with status 1; fairseq, hydra and torch's launchers let it pass.
"""

import contextlib
import os
import traceback
from typing import Iterator, Optional, Tuple, Type


def traceback_wanted() -> bool:
    """Whether the traceback of a mistake follows its line: FAIRSEQ_SRUPP_TRACEBACK=1 in the environment."""
    return os.environ.get("FAIRSEQ_SRUPP_TRACEBACK", "0") not in ("", "0")


class UserError(SystemExit):
    """A mistake of the user: bad input, an impossible option, a missing file.

    `raise UserError("--hidden-size 100 is not divisible by --attention-heads 3")` ends the program with
    exactly one line on stderr, `fairseq_srupp: --hidden-size ...`, and status 1; with FAIRSEQ_SRUPP_TRACEBACK=1
    in the environment the traceback follows. Say what is wrong, where, and what was expected. Not for faults
    of the program itself: those keep their traceback.

    `command` names a subcommand of `python -m fairseq_srupp`, which the line then starts with.
    """

    def __init__(self, message: str, command: Optional[str] = None):
        if not message.startswith("fairseq_srupp"):  # unpickling passes the finished line
            message = f"fairseq_srupp{' ' + command if command else ''}: {message}"
        super().__init__(" ".join(message.splitlines()))
        # Where it is raised: when Python asks for the code, the traceback is not at the exception any more.
        self._stack = traceback.extract_stack()[:-1] if traceback_wanted() else []

    @property
    def code(self) -> str:
        """What Python prints when the program ends."""
        if not self._stack:
            return str(self)
        cause = traceback.format_exception(self.__cause__) if self.__cause__ else []
        raised = ["Traceback (most recent call last):\n", *traceback.format_list(self._stack)]
        return "".join([f"{self}\n", *cause, *raised, f"{type(self).__name__}: {self}"])


@contextlib.contextmanager
def user_errors(*kinds: Type[Exception], command: Optional[str] = None) -> Iterator[None]:
    """Within the block, exceptions of `kinds` (default: ValueError) become a `UserError` with the same text.

    For calls into code that knows nothing of the command line, such as the constructors in `modules/`.
    """
    caught: Tuple[Type[Exception], ...] = kinds or (ValueError,)
    try:
        yield
    except caught as error:
        raise UserError(str(error) or type(error).__name__, command) from error
