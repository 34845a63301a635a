"""Missing files, damaged files, missing packages and forgotten options: one line instead of a traceback.

fairseq (0.12) lets its own assertions and exceptions, and those of the file system, through to the user. Those that it
raises on purpose, with a text of its own, speak to the user: the text is told in one line. What fails without having
been raised on purpose (a key, an attribute, a shape) and faults of this package keep their traceback. May go when
fairseq's entry points do this.
"""

import contextlib
import dis
import functools
import os
import re
import struct
import sys
from types import TracebackType
from typing import Callable, Iterator, List, Optional, Type

from fairseq_srupp.compat.errors import UserError, traceback_wanted
from fairseq_srupp.compat.patch import wrap, wrap_command

_COMMANDS = "fairseq_cli"
_FAIRSEQ = ("fairseq", _COMMANDS)
# What fairseq hands options to, and what refuses them on purpose.
_LIBRARIES = ("antlr4", "hydra", "omegaconf", "sacrebleu", "sacremoses", "torch.optim")
_RAISE = dis.opmap["RAISE_VARARGS"]  # of `raise` and of `assert`
_TWO_WORDS = re.compile(r"[^\W\d_]{2,}\S*\s+\S*[^\W\d_]{2,}")
_LONGEST = 500  # characters; some texts hold a whole configuration
# What torch makes of an exception in a process that loads data; its last frame is the innermost one.
_IN_WORKER = re.compile(
    r'Caught \w+ in DataLoader worker .*File "[^"]*/fairseq/[^"]*", line \d+, in \S+\n\s+(?:raise|assert)\b'
    r'(?:(?!\n  File ").)*?\n[\w.]+: (?P<text>.*)',
    re.DOTALL,
)
# Texts that speak of something else than the mistake, wherever they are raised.
_MEANING = {
    r"index out of range in self": "the data have a token that their dict.txt does not: prepare them again",
    r"offset must be non-negative|buffer is smaller than requested size": "the data end too early: prepare them again",
    r"(Size of sample .*), skip this example with (\S+)": r"\1: raise --max-source-positions or "
    r"--max-target-positions, or skip such examples with \2",
    r"local variable 'valid_losses'": "no update in a whole epoch: --skip-remainder-batch leaves out all of the data",
}


def mistake(error: BaseException) -> Optional[str]:
    """What to tell the user of an exception; None when it may be a fault of a program."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.strerror}: {error.filename}"
    if isinstance(error, UnicodeDecodeError):
        return f"the input is not UTF-8: byte 0x{error.object[error.start]:02x} at position {error.start}"
    text = error.args[0] if isinstance(error, KeyError) and len(error.args) == 1 else error  # str() would quote it
    text = re.sub(r"np\.int\d+\((\d+)\)", r"\1", str(text))
    for speaks, meaning in _MEANING.items():
        if isinstance(error, Exception) and (match := re.search(speaks, text)):
            return match.expand(meaning)
    frames = _frames(error.__traceback__)
    if not frames or not isinstance(error, Exception):
        return None
    if in_worker := _IN_WORKER.fullmatch(str(error)):
        return _told(in_worker.group("text"), type(error))
    package = _package(frames[-1])
    if isinstance(error, ModuleNotFoundError) and package in _FAIRSEQ and not _on_purpose(error, frames[-1]):
        missing = (error.name or "").partition(".")[0]
        return f"{missing} is not installed: pip install {missing}" if missing not in ("", *_FAIRSEQ) else None
    if not _on_purpose(error, frames[-1]):
        return None
    if package in _LIBRARIES:
        if isinstance(error, LookupError) or isinstance(error, AttributeError):
            return None
        if type(error).__module__ == "hydra.errors" and error.__cause__:  # which option; its cause says what is wrong
            text = f"{text}: {error.__cause__}"
        package = next((name for name in map(_package, reversed(frames)) if name not in _LIBRARIES), None)
    return _told(text, type(error)) if package in _FAIRSEQ else None


def _told(text: str, kind: Type[BaseException]) -> Optional[str]:
    """The text of an exception as one line; None where it says nothing."""
    text = " ".join(text.split())
    if text and issubclass(kind, OSError) and not _TWO_WORDS.search(text):  # only the path
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__.removesuffix("Error")).lower() + f": {text}"
    if not _TWO_WORDS.search(text):
        return None
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _frames(trace: Optional[TracebackType]) -> List[TracebackType]:
    """The traceback from outside in."""
    frames = []
    while trace is not None:
        frames.append(trace)
        trace = trace.tb_next
    return frames


def _module(trace: TracebackType) -> str:
    names = trace.tb_frame.f_globals
    spec = names.get("__spec__")  # knows the name where `python -m` runs the module
    return getattr(spec, "name", None) or names.get("__name__") or ""


def _package(trace: TracebackType) -> str:
    name = _module(trace)
    return next((library for library in _LIBRARIES if f"{name}.".startswith(f"{library}.")), name.partition(".")[0])


def _on_purpose(error: BaseException, trace: TracebackType) -> bool:
    """Whether `error` comes from a `raise` or `assert`, not from what an instruction or a call made of its operands."""
    code = trace.tb_frame.f_code
    if code.co_filename.endswith(".pyx"):  # Cython's frames have no instructions
        return isinstance(error, AssertionError)
    from_omegaconf = _package(trace) == "omegaconf"  # raises all its errors anew, with their old traceback
    return code.co_code[trace.tb_lasti] == _RAISE or from_omegaconf


@contextlib.contextmanager
def known_mistakes() -> Iterator[None]:
    """Within the block, what is a mistake of the user becomes a UserError."""
    try:
        yield
    except Exception as error:
        line = mistake(error)
        if line is None:
            raise
        raise UserError(line) from error


def _report(otherwise: Callable, kind: type, error: BaseException, trace: Optional[TracebackType]) -> None:
    """Python's excepthook: the line, where one of fairseq's commands met a mistake; `otherwise` is the hook before."""
    line = mistake(error) if any(_package(frame) == _COMMANDS for frame in _frames(trace)) else None
    if line is not None:
        print(UserError(line), file=sys.stderr)
    if line is None or traceback_wanted():
        otherwise(kind, error, trace)


def _tell_hydra() -> None:
    """fairseq-hydra-train: hydra prints exceptions itself and ends the program, so that no hook is called."""
    from hydra.core import utils

    kept = getattr(utils.JobReturn, "return_value", None)
    if not isinstance(kept, property):  # hydra 1.0
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # which leaves them alone
        return

    def return_value(job):
        if isinstance(job._return_value, Exception) and (line := mistake(job._return_value)):
            raise UserError(line) from job._return_value
        return kept.fget(job)

    utils.JobReturn.return_value = property(return_value, kept.fset)


def apply() -> None:
    from fairseq.data import data_utils, indexed_dataset
    from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE
    from fairseq.tasks.fairseq_task import FairseqTask
    from omegaconf import OmegaConf

    # The commands may be running already, so nothing can be put around them: the end of the program is ours.
    sys.excepthook = functools.partial(_report, sys.excepthook)
    _tell_hydra()

    @wrap(FairseqTask, "train_step")
    def train_step(original, *args, **kwargs):
        # Training keeps a checkpoint (crash.pt) of what ends an update; a mistake of the user needs none.
        with known_mistakes():
            return original(*args, **kwargs)

    @wrap_command("interactive", "main")
    def interactive(original, cfg, *args, **kwargs):
        options = getattr(cfg, "generation", cfg)
        if getattr(options, "print_alignment", None) == "soft":
            raise UserError("fairseq-interactive prints no soft alignments: --print-alignment hard, or fairseq-generate")
        return original(cfg, *args, **kwargs)

    @wrap(SentencepieceBPE, "__init__")
    def sentencepiece(original, self, cfg):
        if OmegaConf.is_config(cfg) and OmegaConf.is_missing(cfg, "sentencepiece_model"):
            raise UserError("--bpe sentencepiece needs --sentencepiece-model")
        try:
            original(self, cfg)
        except (OSError, RuntimeError) as error:
            raise UserError(f"--sentencepiece-model {cfg.sentencepiece_model} cannot be read: {error}") from error

    # An index that could not be opened has nothing to close; fairseq would print a traceback of that.
    for owner in (indexed_dataset.MMapIndexedDataset, indexed_dataset.MMapIndexedDataset.Index):

        @wrap(owner, "__del__")
        def delete(original, self):
            with contextlib.suppress(AttributeError):
                original(self)

    @wrap(data_utils, "load_indexed_dataset")
    def load_indexed_dataset(original, path, *args, **kwargs):
        try:
            return original(path, *args, **kwargs)
        except (AssertionError, ValueError, struct.error) as error:
            told = mistake(error)
            reason = f"cannot be read: {told}" if told else "are empty, damaged or not of fairseq-preprocess"
            raise UserError(f"{path}.bin and .idx {reason}") from error
