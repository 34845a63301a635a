"""Missing files, damaged files and forgotten options: one line instead of a traceback.

fairseq (0.12) lets the exceptions of the file system, and its own assertions, through to the user.
Programming errors keep their traceback. May go when fairseq's entry points do this.
"""

import contextlib
import re
import struct
from typing import Iterator

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap, wrap_command

# Assertions and plain exceptions of fairseq that speak to the user.
_MEANT_FOR_USERS = re.compile(
    r"Must specify batch size|Could not infer language pair|Dataset not found|Please specify criterion"
    r"|Unsupported optimizer|optimizer is required|Incorrect encoding detected|Incorrect dictionary format"
    r"|exceeds max_positions|^Not found: |^file .* not found|The dataset is empty|--buffer-size"
    r"|AdaptiveLoss is not compatible|--replace-unk requires|must contain the same number of examples"
    r"|exceeds? max_tokens|^--finetune-from-model"
)
# Others, which speak of something else than the mistake.
_MEANING = {
    r"index out of range in self": "the data have a token that their dict.txt does not: prepare them again",
    r"offset must be non-negative|buffer is smaller than requested size": "the data end too early: prepare them again",
    r"(Size of sample .*), skip this example": r"\1: raise --max-source-positions or --max-target-positions",
}


@contextlib.contextmanager
def known_mistakes() -> Iterator[None]:
    """Within the block, missing or unreadable files and what fairseq tells its users become UserErrors."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and error.strerror:
            raise UserError(f"{error.strerror}: {error.filename}") from error
        if not _MEANT_FOR_USERS.search(str(error)):
            raise
        raise UserError(str(error)) from error
    except SyntaxError as error:
        if error.filename != "<string>":
            raise
        raise UserError(f"--model-overrides {error.text}: expected a dictionary such as {{'mem_len': 2048}}") from error
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise UserError(f"the input is not UTF-8: byte 0x{byte:02x} at position {error.start}") from error
    except Exception as error:
        told = re.sub(r"np\.int\d+\((\d+)\)", r"\1", str(error))
        for speaks, meaning in _MEANING.items():
            if match := re.search(speaks, told):
                raise UserError(match.expand(meaning)) from error
        if not _MEANT_FOR_USERS.search(told):
            raise
        raise UserError(told) from error


def apply() -> None:
    from fairseq import tasks
    from fairseq.data import data_utils, indexed_dataset
    from fairseq.data.encoders.sentencepiece_bpe import SentencepieceBPE
    from fairseq.tasks.fairseq_task import FairseqTask
    from fairseq.tasks.language_modeling import LanguageModelingTask
    from fairseq.tasks.translation import TranslationTask
    from omegaconf import OmegaConf

    def guarded(original, *args, **kwargs):
        with known_mistakes():
            return original(*args, **kwargs)

    # fairseq-hydra-train does not come past call_main, so what reads files is guarded too.
    wrap(tasks, "setup_task")(guarded)
    wrap(LanguageModelingTask, "load_dataset")(guarded)
    wrap(TranslationTask, "load_dataset")(guarded)
    # Neither do those that are already running.
    for command in ("eval_lm", "generate", "interactive"):
        wrap_command(command, "main")(guarded)
    # Training keeps a checkpoint (crash.pt) of what ends an update; a mistake of the user needs none.
    wrap(FairseqTask, "train_step")(guarded)

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
            raise UserError(f"{path}.bin and .idx are empty, damaged or not of fairseq-preprocess") from error
