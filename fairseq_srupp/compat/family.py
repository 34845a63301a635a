"""Which fairseq is here, and whether it is one that the plugin works with.

The package requires no fairseq, so that it never replaces one: it takes the one that is there. Any tree of the 0.12
family will do. It is known by what the repairs and the plugin need, not by its version, which each fork counts in its
own way. May go when there is one fairseq again.
"""

import importlib
import importlib.metadata
import importlib.util
import os
from typing import Iterator, List, NamedTuple, Optional

from fairseq_srupp.compat.errors import UserError

# Modules of fairseq and names in them: everything that this package imports or replaces.
_NEEDED = {
    "checkpoint_utils": "load_checkpoint load_checkpoint_to_cpu load_model_ensemble_and_task save_checkpoint "
    "torch_persistent_save verify_checkpoint_directory convert_namespace_to_omegaconf OmegaConf",
    "criterions.adaptive_loss": "AdaptiveLoss.forward",
    "data": "Dictionary FairseqDataset IdDataset ListDataset NestedDictionaryDataset NumelDataset PadDataset",
    "data.data_utils": "batch_by_size load_indexed_dataset",
    "data.encoders": "register_bpe",
    "data.encoders.sentencepiece_bpe": "SentencepieceBPE.__init__",
    "data.fasta_dataset": "FastaDataset._build_index fasta_file_path",
    "data.indexed_dataset": "get_available_dataset_impl MMapIndexedDataset.Index.__del__",
    "data.iterators": "EpochBatchIterator",
    "data.language_pair_dataset": "",
    "data.token_block_dataset": "",
    "dataclass": "ChoiceEnum FairseqDataclass",
    "dataclass.utils": "convert_namespace_to_omegaconf",
    "distributed.utils": "_TensorPlaceholder all_gather_list broadcast_object call_main distributed_main "
    "infer_init_method",
    "file_io": "PathManager.copy PathManager.path_requires_pathmanager PathManager.supports_rename",
    "file_utils": "PYTORCH_FAIRSEQ_CACHE cached_path load_archive_file",
    "hub_utils": "from_pretrained",
    "logging.meters": "Meter MetersDict.load_state_dict safe_round",
    "logging.metrics": "",
    "models": "BaseFairseqModel FairseqEncoder FairseqEncoderDecoderModel FairseqIncrementalDecoder "
    "FairseqLanguageModel import_models register_model register_model_architecture",
    "models.distributed_fairseq_model": "DistributedDataParallel",
    "models.speech_to_text.hub_interface": "S2THubInterface.predict",
    "optim": "FairseqOptimizer OPTIMIZER_REGISTRY register_optimizer",
    "options": "parse_args_and_arch",
    "registry": "REGISTRIES",
    "sequence_scorer": "SequenceScorer",
    "tasks": "FairseqTask import_tasks register_task setup_task",
    "tasks.fairseq_task": "FairseqTask.train_step",
    "tasks.language_modeling": "LanguageModelingTask.load_dataset",
    "tasks.translation": "TranslationTask.load_dataset",
    "trainer": "Trainer.__init__ Trainer.load_checkpoint",
    "utils": "apply_to_sample import_user_module move_to_cpu move_to_cuda",
}
_RELATIVES = ("fairseq2",)  # packages without a module `fairseq` that may be taken for one


class Found(NamedTuple):
    """The fairseq that is here: `name`, its distribution and version, and `folder`, where its package is, are None where
    there is none; `fault`, why it will not do, is None where it will."""

    name: Optional[str]
    folder: Optional[str]
    fault: Optional[str]

    def __str__(self) -> str:
        if self.folder is None:
            return str(self.fault)
        here = f"{self.name} in {self.folder}"
        return here if self.fault is None else f"not a suitable one: {here}: {self.fault}"


def needed() -> Iterator[str]:
    """The names that a suitable fairseq has, each with its module: `fairseq.trainer.Trainer.__init__`."""
    for module, names in _NEEDED.items():
        yield f"fairseq.{module}"
        for name in names.split():
            yield f"fairseq.{module}.{name}"


def find() -> Found:
    """The fairseq that Python imports here. Imports it, as far as that goes."""
    folder = _folder()
    return _missing() if folder is None else Found(_name(folder), folder, _fault())


def require() -> None:
    """Raises: UserError, naming what is here and how to get another, where there is no suitable fairseq."""
    folder = _folder()
    fault = None if folder is None else _fault()
    if folder is not None and fault is None:
        return
    install = f"pip install --no-build-isolation '{_ourselves()}[fairseq]'"
    if folder is None:
        raise UserError(f"fairseq is {_missing()}: {install}")
    installed = _distributions(folder)
    if installed:
        install = f"pip uninstall {' '.join(name.split()[0] for name in installed)}; {install}"
    raise UserError(f"fairseq is {Found(_name(folder), folder, fault)}; to have another: {install}")


def _missing() -> Found:
    relatives = " and ".join(filter(None, map(_version, _RELATIVES)))
    return Found(None, None, "not installed" + (f" ({relatives} is another package)" if relatives else ""))


def _folder() -> Optional[str]:
    """Of the package `fairseq`; None where there is none, or a folder of that name with no package in it."""
    try:
        spec = importlib.util.find_spec("fairseq")
    except (ImportError, ValueError):  # an import that is blocked; something in sys.modules without a spec
        return None
    return None if spec is None or spec.origin is None else os.path.dirname(os.path.abspath(spec.origin))


def _fault() -> Optional[str]:
    """What a repair, or the plugin, would miss first."""
    for module, names in _NEEDED.items():
        path = f"fairseq.{module}"
        try:
            owner = importlib.import_module(path)
        except Exception as error:  # a fairseq for other versions of Python or hydra fails in any way
            if isinstance(error, ModuleNotFoundError) and f"{path}.".startswith(f"{error.name}."):
                return f"it has no {error.name}"
            return f"{path} cannot be imported: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        for name in names.split():
            value = owner
            for part in name.split("."):
                if not hasattr(value, part):
                    return f"it has no {path}.{name}"
                value = getattr(value, part)
    return None


def _name(folder: str) -> str:
    """The distributions that the folder is of, with versions; what the code itself says where it is of none."""
    named = _distributions(folder)
    return " and ".join(named) if named else f"fairseq {_own_version(folder)}"


def _own_version(folder: str) -> str:
    for file in ("version.txt", "version.py"):
        try:
            with open(os.path.join(folder, file), encoding="utf-8") as lines:
                return lines.read().replace("__version__ =", "").strip("\"' \n")
        except OSError:
            pass
    return "of unknown version"


def _distributions(folder: str) -> List[str]:
    """Those that were installed into this folder, or are developed in it: more than one have overwritten each other."""
    found = []
    for name in dict.fromkeys(importlib.metadata.packages_distributions().get("fairseq", ())):
        distribution = importlib.metadata.distribution(name)
        installed = os.path.realpath(str(distribution.locate_file("fairseq"))) == os.path.realpath(folder)
        sources = os.path.dirname(os.path.realpath(folder))
        editable = f"file://{sources}" in (distribution.read_text("direct_url.json") or "")
        if installed or editable:
            found.append(f"{distribution.metadata['Name']} {distribution.version}")
    return found


def _version(distribution: str) -> Optional[str]:
    try:
        return f"{distribution} {importlib.metadata.version(distribution)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def _ourselves() -> str:
    """What pip knows this package by: its name, or the folder of a clone that was not installed."""
    try:
        return importlib.metadata.metadata("fairseq_srupp")["Name"]
    except importlib.metadata.PackageNotFoundError:
        return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
