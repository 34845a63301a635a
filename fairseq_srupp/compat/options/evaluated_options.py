"""Options are values: fairseq executes nothing that stands in one.

fairseq (0.12) calls `eval` on options of some twenty modules (convolutions, attention, betas, cut-offs), and the model,
the criterion, the task and all their options are what a checkpoint names; so a checkpoint could run any code. In
fairseq's modules, those that are imported later too, `eval` gives the value of literals, with + and * between them, and
ends with one line at everything else. Three more places do what a file says: an index of FASTA data is made by a
shell, which is given the path of the data; a checkpoint names functions of logging/meters.py, which are called; and the
data of speech translation name a repository that torch.hub executes. May go when fairseq has none of these.
"""

import argparse
import contextlib
import dataclasses
import functools
import inspect
import itertools
import os
import sys
from importlib.abc import MetaPathFinder
from typing import Any, Iterable, Optional, Tuple

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import checkpoint_options
from fairseq_srupp.compat.options.literals import literal
from fairseq_srupp.compat.patch import wrap, wrap_where_there

_SPEECH = "pytorch/fairseq"  # the repository of fairseq's published models


def evaluate(text: Any, *_: Any) -> Any:
    """What `eval` is in fairseq's modules.

    Raises: UserError, naming the option and the checkpoint that it stands in, where they are known.
    """
    if not isinstance(text, str):
        raise TypeError(f"eval() arg 1 must be a string, not {type(text).__name__}")
    try:
        return literal(text)
    except ValueError as error:
        name, path = _option(text), checkpoint_options.file_of(text)
        option = f"the option {name}" if name and path else f"--{name.replace('_', '-')}" if name else "an option"
        shown = text if len(text) <= 100 else f"{text[:100]}..."
        raise UserError(f"{option}{f' of {path}' if path else ''} is {shown!r}; {error}") from None


def _option(text: str) -> Optional[str]:
    """The name under which the text stands in the options that the callers work with."""
    frame = inspect.currentframe()
    while frame := frame.f_back:
        for value in list(frame.f_locals.values()):
            with contextlib.suppress(Exception):  # of an object that does not like to be asked
                for name, found in _options_in(value, text):
                    if isinstance(found, str) and found == text:
                        return str(name)
    return None


def _options_in(value: Any, text: str) -> Iterable[Tuple[Any, Any]]:
    from omegaconf import DictConfig, OmegaConf

    if isinstance(value, argparse.Action):  # what argparse is reading when it calls the type of an option
        return [(value.dest, text)]
    if isinstance(value, DictConfig):
        return OmegaConf.to_container(value, resolve=False).items() if isinstance(value._content, dict) else ()
    if isinstance(value, argparse.Namespace) or dataclasses.is_dataclass(value) and not isinstance(value, type):
        return vars(value).items()
    inner = (getattr(value, name, None) for name in ("cfg", "args")) if hasattr(value, "__dict__") else ()
    options = [option for option in inner if isinstance(option, (argparse.Namespace, DictConfig))]
    return itertools.chain.from_iterable(_options_in(option, text) for option in options)


@functools.cache
def _folders() -> Tuple[str, ...]:
    """Of fairseq's modules, with those of its examples, which may be a link."""
    import fairseq
    import fairseq_cli

    folders = [*fairseq.__path__, *fairseq_cli.__path__, *(os.path.join(path, "examples") for path in fairseq.__path__)]
    return tuple(os.path.join(os.path.realpath(folder), "") for folder in folders)


@functools.lru_cache(maxsize=None)
def _is_of_fairseq(folder: str) -> bool:
    return os.path.join(os.path.realpath(folder), "").startswith(_folders())


class _Finder(MetaPathFinder):
    """Gives modules of fairseq their `eval` before they are executed."""

    def find_spec(self, name, path=None, target=None):
        if not any(map(_is_of_fairseq, path or ())):
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if hasattr(spec and spec.loader, "exec_module"):

            @wrap(spec.loader, "exec_module")
            def exec_module(original, module):
                vars(module)["eval"] = evaluate
                original(module)

        return spec


def _cover_imported() -> None:
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not _is_of_fairseq(os.path.dirname(file)):
            continue
        vars(module)["eval"] = evaluate
        if module.__name__ in ("__main__", "__mp_main__"):
            # in a process that was spawned by `python -m` the functions have a namespace beside the module's
            for function in filter(inspect.isfunction, list(vars(module).values())):
                if function.__code__.co_filename == file:
                    inspect.unwrap(function).__globals__["eval"] = evaluate


def _index(original, self, path: str):
    """Offset of each sequence in the file, and its length."""
    import numpy
    from fairseq.data.fasta_dataset import fasta_file_path

    offsets, sizes, position = [], [], 0
    with open(fasta_file_path(path), "rb") as lines:
        for line in lines:
            if line.startswith(b">"):
                offsets.append(position)
                sizes.append(0)
            elif sizes:
                sizes[-1] += len(line.strip())
            position += len(line)
    return numpy.array(offsets, dtype=numpy.int64), numpy.array(sizes, dtype=numpy.int64)


def _load_meters(original, self, state_dict):
    from fairseq.logging import meters

    for _, key, kind, _ in state_dict:
        found = getattr(meters, kind, None) if isinstance(kind, str) else None
        if not (inspect.isclass(found) and issubclass(found, meters.Meter)):
            raise UserError(f"the checkpoint names {str(kind)[:100]} as the meter {key}: fairseq has no such meter")
    original(self, state_dict)


def _predict(original, self, audio, tgt_lang=None, synthesize_speech=False):
    for name, model in self.task.data_cfg.hub.items() if synthesize_speech else ():
        if str(name).endswith("tts_model_id") and str(model).split(":")[0] != _SPEECH:
            raise UserError(f"the data's {name} is {model}, which could run code; expected a model of {_SPEECH}")
    return original(self, audio, tgt_lang, synthesize_speech)


def apply() -> None:
    from fairseq.data.fasta_dataset import FastaDataset
    from fairseq.logging.meters import MetersDict
    from fairseq.models.speech_to_text.hub_interface import S2THubInterface

    sys.meta_path.insert(0, _Finder())
    _cover_imported()
    wrap_where_there(FastaDataset, "_build_index")(_index)
    wrap(MetersDict, "load_state_dict")(_load_meters)
    wrap(S2THubInterface, "predict")(_predict)
