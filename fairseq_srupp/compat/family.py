"""Which fairseq is here, and whether it is one that the plugin works with.

The package requires no fairseq, so that it never replaces one: it takes the one that is there. Any tree of the 0.12
family will do. It is known by what the repairs and the plugin need, not by its version, which each fork counts in its
own way. May go when there is one fairseq again.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import os
import pathlib
import re
from typing import Iterator, List, NamedTuple, Optional, Tuple

from fairseq_srupp.compat.errors import UserError

# What this package imports of fairseq, wherever it does, and what its repairs replace there: a name, or one in a class.
_IMPORTED = re.compile(r"^ *from (fairseq(?:\.\w+)*) import (\([^)]*\)|[^\n#]*)", re.MULTILINE)
_REPLACED = re.compile(r"\bwrap\(([\w.]+), \"(\w+)\"\)")
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


@functools.cache
def needed() -> Tuple[str, ...]:
    """The names that a suitable fairseq has, each with its module, as `fairseq.trainer.Trainer.__init__`.

    They are read off the sources of this package, so that nothing is repaired half before a name turns out to be missing.
    """
    names = set()
    for path in pathlib.Path(__file__).parent.parent.rglob("*.py"):
        source, known = path.read_text(encoding="utf-8"), {}
        for module, imported in _IMPORTED.findall(source):
            for words in map(str.split, imported.strip("()").split(",")):
                if words:  # `name`, or `name as other`
                    known[words[-1]] = f"{module}.{words[0]}"
        names.update(known.values())
        for owner, name in _REPLACED.findall(source):
            first, *others = owner.split(".")
            if first in known:
                names.add(".".join([known[first], *others, name]))
    return tuple(sorted(names))


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
    for path in needed():
        known = "fairseq"
        try:
            value = importlib.import_module(known)
            for part in path.split(".")[1:]:
                known = f"{known}.{part}"
                if inspect.ismodule(value) and not hasattr(value, part):
                    importlib.import_module(known)
                value = getattr(value, part)
        except Exception as error:  # a fairseq for other versions of Python or hydra fails in any way
            if isinstance(error, AttributeError) and not inspect.ismodule(value) or getattr(error, "name", None) == known:
                return f"it has no {known}"
            return f"it cannot be imported: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
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


def distributions() -> Iterator[importlib.metadata.Distribution]:
    """Those installed here that have a package `fairseq`: more than one have overwritten each other."""
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if "fairseq" in name.lower():  # all forks are called so; reading the files of every other one takes long
            top = (distribution.read_text("top_level.txt") or "").split()
            if "fairseq" in top or any(file.parts[0] == "fairseq" for file in distribution.files or ()):
                yield distribution


def _distributions(folder: str) -> List[str]:
    """Name and version of those that were installed into this folder, or are developed in it."""
    folder, found = os.path.realpath(folder), []
    for distribution in distributions():
        installed = os.path.realpath(str(distribution.locate_file("fairseq"))) == folder
        sources = f"file://{os.path.dirname(folder)}"
        if installed or sources in (distribution.read_text("direct_url.json") or ""):
            found.append(f"{distribution.metadata['Name']} {distribution.version}")
    return list(dict.fromkeys(found))


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
