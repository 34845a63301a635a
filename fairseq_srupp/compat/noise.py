"""Lines that tell a user of fairseq nothing, and would bury one that matters.

Warnings about fairseq's own code, which its users cannot mend. fairseq (0.12) uses `torch.cuda.amp.autocast` (deprecated
since torch 2.4) in every training step, asks for pinned memory on machines without a GPU, mixes the types of attention
masks (deprecated since torch 2.0), gives DistributedDataParallel `broadcast_buffers` (deprecated in torch 2.13), and
calls hydra as in version 1.0. Each filter may go with the call that it is about.

All options, thousands of characters, where two of them do not go together: the line that ends the program says which.

Debug lines of other packages. fairseq gives LOGLEVEL to the root of all loggers, so LOGLEVEL=DEBUG asks every package of
the process for them: filelock's alone, a few for each file that torch.compile makes, are hundreds. And several processes
set the root to INFO whatever LOGLEVEL says. What fairseq's commands print is as LOGLEVEL says, of other packages not
below INFO. May go when fairseq gives its level to its own loggers alone.
"""

import logging
import os
import sys
import warnings

from fairseq_srupp.compat.patch import wrap

_ABOUT_FAIRSEQ = (
    (r"`torch\.cuda\.amp\.", FutureWarning),
    (r"'pin_memory' argument is set as true but no accelerator", UserWarning),
    (r"Support for mismatched key_padding_mask and attn_mask", UserWarning),
    (r"`broadcast_buffers` is deprecated", FutureWarning),
    (r"hydra\.experimental\.\w+\(\) is no longer experimental", UserWarning),
    (r"\s*The version_base parameter is not specified", UserWarning),
    (r"In 'config': Usage of deprecated keyword", UserWarning),
    (r"\s*'config' is validated against ConfigStore schema", UserWarning),
    (r"\s*The strict flag in the compose API is deprecated", UserWarning),
)
_COMPOSING = "fairseq.dataclass.utils"
_OURS = ("fairseq", "fairseq_cli", "fairseq_srupp", "__main__")


def asked_for(record: logging.LogRecord) -> bool:
    """Whether LOGLEVEL asks for this record."""
    if record.name == _COMPOSING and str(record.msg).startswith("Error when composing"):
        return False
    level = logging.getLevelName(os.environ.get("LOGLEVEL", "INFO").upper())
    if not isinstance(level, int):
        return True
    if record.name.split(".")[0] not in _OURS:
        level = max(level, logging.INFO)
    return record.levelno >= level


def _filter(handler: logging.Handler) -> None:
    if type(handler) is logging.StreamHandler:  # fairseq's; other programs' own kinds are left alone
        handler.addFilter(asked_for)


def apply() -> None:
    for message, category in _ABOUT_FAIRSEQ:
        warnings.filterwarnings("ignore", message=message, category=category)
    if "fairseq_cli" not in sys.modules:  # this process is no command of fairseq: its logging is its own affair
        return
    root = logging.getLogger()
    for handler in root.handlers:
        _filter(handler)

    @wrap(root, "addHandler")  # some commands set up logging after they have imported the plugin
    def add_handler(original, handler):
        _filter(handler)
        original(handler)
