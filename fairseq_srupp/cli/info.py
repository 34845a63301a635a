"""Print versions, devices, and which backends of the recurrence op work here, or why not and what to do."""

import argparse
import importlib
import logging
import platform
import warnings
from typing import Iterator, Tuple

import fairseq_srupp
from fairseq_srupp.compat import family
from fairseq_srupp.compat.user_dir import PACKAGE_DIR


def _versions() -> Iterator[Tuple[str, str]]:
    yield "fairseq_srupp", f"{fairseq_srupp.__version__} in {PACKAGE_DIR}"
    yield "python", platform.python_version()
    for name in ("torch", "numpy"):
        try:  # the module: it says which build of torch it is, which its package's version may not
            yield name, importlib.import_module(name).__version__
        except ImportError:
            yield name, "not installed"
    yield "fairseq", str(family.find())


def _devices() -> Iterator[Tuple[str, str]]:
    import torch

    yield "CPU threads", str(torch.get_num_threads())
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield "GPUs", f"none (torch is built {built})"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        capability = f"compute capability {properties.major}.{properties.minor}"
        yield f"GPU {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, {capability}"


def _backends() -> Iterator[Tuple[str, str]]:
    from fairseq_srupp import ops

    for name, (available, reason) in ops.backends().items():
        yield name, f"{'here' if available else 'not here'}{': ' + reason if reason else ''}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(args: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.WARNING)  # a fairseq that is imported would tell of itself
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _print("versions", _versions())
    try:
        import torch  # noqa: F401
    except ImportError:
        print("torch cannot be imported: `make setup` or `pip install torch` installs it")
        return 1
    _print("devices", _devices())
    _print("backends of the recurrence op", _backends())
    return 0


def _print(title: str, rows: Iterator[Tuple[str, str]]) -> None:
    print(title)
    for name, text in rows:
        print(f"  {name:15}{text}")
