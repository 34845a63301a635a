"""`--model-overrides`: a dictionary of options that the checkpoint has.

fairseq (0.12) evaluates the text without a word about what was wrong with it, and ignores names that are not in the
checkpoint's configuration, also those that its model has had only since the checkpoint was written. May go when fairseq
refuses the first two and obeys the last.
"""

import argparse
import ast
from typing import Any, Dict, Optional, Set

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.options import option_values
from fairseq_srupp.compat.patch import wrap

_OPTION = "--model-overrides"
_given: Set[str] = set()  # names in the option; fairseq overrides others of its own accord
_unknown: Optional[Set[str]] = None  # of these, what no configuration has had so far; None: none was seen


def read(text: str) -> Dict[str, Any]:
    """The dictionary that the option's `text` is.

    Raises:
        UserError: it is none, or holds a value that its option cannot have.
    """
    try:
        overrides = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        overrides = None
    if not isinstance(overrides, dict) or not all(isinstance(name, str) for name in overrides):
        raise UserError(f"{_OPTION} {text}: expected a dictionary of plain values such as {{'mem_len': 2048}}")
    option_values.check(overrides, lambda name: f"{_OPTION} {name}")
    return overrides


def remember(text: str) -> None:
    """Reads the option's `text`; its names have to be in the checkpoints that are loaded from now on."""
    _given.clear()
    _given.update(read(text))


def _names(node: Any) -> Set[str]:
    """The names of all options in a configuration, in groups or not."""
    from fairseq.dataclass.utils import _set_legacy_defaults
    from fairseq.models import ARCH_MODEL_REGISTRY

    if isinstance(node, argparse.Namespace):  # a model reads from it what it knows, whether it is there or not
        known = argparse.Namespace()
        if getattr(node, "arch", None) in ARCH_MODEL_REGISTRY:
            _set_legacy_defaults(known, ARCH_MODEL_REGISTRY[node.arch])
        return {*vars(node), *vars(known)}
    if not hasattr(node, "keys"):
        return set()
    return {str(key) for key in node}.union(*(_names(node[key]) for key in node if _is_there(node, key)))


def _add_new_options(cfg: Any, overrides: Dict[str, Any]) -> None:
    """Options of the model that are overridden and that its checkpoint is too old to have, as they are by default."""
    from fairseq.models import MODEL_DATACLASS_REGISTRY
    from omegaconf import DictConfig, open_dict

    model = cfg.get("model") if isinstance(cfg, DictConfig) else None
    if isinstance(model, DictConfig) and model.get("_name") in MODEL_DATACLASS_REGISTRY:
        fields = MODEL_DATACLASS_REGISTRY[model["_name"]].__dataclass_fields__
        with open_dict(model):
            for name in fields.keys() & overrides.keys() - set(model):
                model[name] = fields[name].default


def _is_there(node: Any, key: Any) -> bool:
    return not hasattr(node, "_get_node") or key in node  # omegaconf's: not for "???"


def apply() -> None:
    from fairseq import checkpoint_utils

    @wrap(checkpoint_utils, "overwrite_args_by_name")
    def overwrite_args_by_name(original, cfg, overrides):
        global _unknown
        _add_new_options(cfg, overrides)
        _unknown = (_given.intersection(overrides) if _unknown is None else _unknown) - _names(cfg)
        original(cfg, overrides)

    @wrap(checkpoint_utils, "load_model_ensemble_and_task")
    def load_model_ensemble_and_task(original, filenames, *args, **kwargs):
        global _unknown
        _unknown = None
        loaded = original(filenames, *args, **kwargs)
        if _unknown:
            raise UserError(f"{_OPTION}: {':'.join(filenames)} has no option {sorted(_unknown)[0]}")
        _given.clear()  # an additional language model need not have them
        return loaded
