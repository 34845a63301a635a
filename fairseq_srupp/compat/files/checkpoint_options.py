"""The options in a checkpoint are text: nothing of this machine gets into them.

fairseq (0.12) builds omegaconf containers of them, and these put into a value such as "${oc.env:TOKEN}" what the
environment holds, or what another resolver of omegaconf or hydra gives. Older checkpoints refer to other options
("${common.seed}"), which goes on to work; a checkpoint with anything else of that kind is refused. The names of
components in older ones (`args.bpe`) are names of hydra's files, so they must not be paths. Two options name what is
to be written: the predictions of sentence_ranking, and the log for TensorBoard of text_to_speech; where a checkpoint
names it, nothing is written. May go when fairseq reads the options of checkpoints without interpolation, and writes
only where the command line says.
"""

import argparse
import logging
import re
from typing import Any, Dict, Iterator, Tuple

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap

logger = logging.getLogger(__name__)

_REFERENCE = re.compile(r"\$\{\.*[A-Za-z_][\w.]*\}")  # to another option: no resolver, no text around it
_COMPONENT = re.compile(r"[\w-]*")

_files: Dict[str, str] = {}  # of each text the checkpoint


def file_of(text: str) -> Any:
    """The checkpoint, loaded in this process, that has the text as the value of an option; None if there is none."""
    return _files.get(text)


class _Refused(Exception):
    """What is wrong with a checkpoint's options."""


def texts(options: Any) -> Iterator[Tuple[str, str]]:
    """All texts in the options of a checkpoint, each with the name of its option: "model.arch". Nothing is resolved."""
    from omegaconf import OmegaConf

    rest, seen = [("", options)], {}
    while rest:
        name, value = rest.pop()
        if isinstance(value, str):
            yield name, value
            continue
        if id(value) in seen:
            continue
        seen[id(value)] = value  # kept: another object must not get its id
        if OmegaConf.is_config(value):
            rest.append((name, value.__dict__.get("_parent")))  # which references may reach
            rest.append((name, OmegaConf.to_container(value, resolve=False)))
            continue
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if not isinstance(value, (dict, list, tuple, set, frozenset)):
            continue
        named = value.items() if isinstance(value, dict) else ((name.rpartition(".")[2], entry) for entry in value)
        prefix = name if isinstance(value, dict) else name.rpartition(".")[0]
        for key, entry in named:
            rest.append((f"{prefix}.{key}".strip("."), entry))
            if isinstance(value, dict):
                rest.append((f"{prefix}.{key}".strip("."), key))


def _check(options: Any, found: list) -> None:
    from fairseq.registry import REGISTRIES

    for name, text in texts(options):
        if name.rpartition(".")[2] in REGISTRIES and not _COMPONENT.fullmatch(text):
            raise _Refused(f"the option {name[:100]} is {text[:100]!r}, which is no name")
        if "${" in text and not _REFERENCE.fullmatch(text):
            what = "asks for more than the value of another option"
            raise _Refused(f"the option {name[:100]} is {text[:100]!r}, which {what}")
        found.append(text)


def _where_to_write(path: Any) -> Any:
    """The value of an option that names what is to be written; None where it stands in a checkpoint."""
    if path is None or isinstance(path, str) and file_of(path) is None:
        return path
    logger.warning("%s: not written; it is an option of a checkpoint", path)
    return None


def apply() -> None:
    from fairseq import checkpoint_utils
    from fairseq.criterions.sentence_ranking import SentenceRankingCriterion
    from fairseq.tasks.text_to_speech import TextToSpeechTask
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    found: list = []

    class Options(OmegaConf):
        """omegaconf, as checkpoint_utils uses it."""

        @staticmethod
        def create(obj, *args, **kwargs):
            _check(obj, found)
            return OmegaConf.create(obj, *args, **kwargs)

    checkpoint_utils.OmegaConf = Options

    @wrap(SentenceRankingCriterion, "__init__")
    def sentence_ranking(original, self, task, ranking_head_name, save_predictions, num_classes):
        original(self, task, ranking_head_name, _where_to_write(save_predictions), num_classes)

    @wrap(TextToSpeechTask, "__init__")
    def text_to_speech(original, self, args, src_dict):
        original(self, args, src_dict)
        if self.tensorboard_dir and _where_to_write(args.tensorboard_logdir) is None:
            self.tensorboard_dir = ""

    @wrap(checkpoint_utils, "convert_namespace_to_omegaconf")
    def convert_namespace_to_omegaconf(original, args):
        _check(args, found)
        return original(args)

    @wrap(checkpoint_utils, "load_checkpoint_to_cpu")
    def load_checkpoint_to_cpu(original, path, *args, **kwargs):
        found.clear()
        try:
            state = original(path, *args, **kwargs)
        except _Refused as error:
            raise UserError(f"refused to load {path}: {error}") from None
        _files.update(dict.fromkeys(found, path))
        return state

    @wrap(checkpoint_utils, "load_model_ensemble_and_task")
    def load_model_ensemble_and_task(original, filenames, *args, **kwargs):
        try:
            return original(filenames, *args, **kwargs)
        except OmegaConfBaseException as error:  # of another type, or a reference to what is not there
            reason = " ".join(str(error).split())
            raise UserError(f"{':'.join(map(str, filenames))}: its options do not fit its model: {reason}") from error
