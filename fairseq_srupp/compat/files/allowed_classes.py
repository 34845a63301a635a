"""What the names of classes and functions in a checkpoint stand for, beyond torch's own list.

With weights only, torch.load calls what a name stands for with whatever arguments the file gives, and hands whatever
state the file gives to the result, in any order and as often as the file says. The classes that fairseq saves were not
made for that: the state of a numpy.dtype can turn bytes of the file into pointers to objects, that of an omegaconf
container or of a Namespace can replace their methods. So each name stands for a class or function of ours that takes
what fairseq saves and raises ValueError for anything else; the values that come out are those of the original class.
"""

import argparse
import math
import re
from typing import Any, Callable, Dict, List, Tuple

import numpy
import omegaconf

_NUMBERS = re.compile(r"b1|[iu][1248]|f[248]|c8|c16")  # numpy's codes of types that hold no pointers


class Dtype:
    """Stands for numpy.dtype: one of plain numbers. All that its state may say is the byte order."""

    dtype: Any = None

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if type(code) is not str or not _NUMBERS.fullmatch(code):
            raise ValueError("a numpy.dtype that is not of plain numbers")
        self.dtype = numpy.dtype(code)

    def __setstate__(self, state: Tuple) -> None:
        order = state[1] if type(state) is tuple and len(state) > 1 else None
        if self.dtype is None or type(order) is not str or order not in ("<", ">", "|"):
            raise ValueError("a numpy.dtype without byte order")
        self.dtype = self.dtype.newbyteorder(order)


def scalar(dtype: Dtype, data: bytes) -> numpy.generic:
    """Stands for numpy's function of this name: the number whose bytes are `data`."""
    if type(dtype) is not Dtype or type(data) is not bytes or dtype.dtype is None or len(data) != dtype.dtype.itemsize:
        raise ValueError("a numpy number whose bytes do not fit its type")
    return numpy.frombuffer(data, dtype.dtype)[0]


class Array(numpy.ndarray):
    """Stands for numpy's _reconstruct: an array that gets type, shape and content later, once.

    Stays of this class, which is that of numpy in all but its name, and is saved as one of numpy.
    """

    def __new__(cls, *_: Any) -> "Array":
        return super().__new__(cls, (0,), "b")

    def __setstate__(self, state: Tuple) -> None:
        if self.nbytes:  # other objects may have been made of it, and share its memory
            raise ValueError("a numpy array that is set twice")
        if type(state) is not tuple or len(state) != 5:
            raise ValueError("a numpy array in an unknown format")
        _, shape, dtype, fortran, data = state
        if (
            type(shape) is not tuple
            or not all(type(size) is int and size >= 0 for size in shape)
            or type(dtype) is not Dtype
            or dtype.dtype is None
            or type(data) is not bytes
            or math.prod(shape) * dtype.dtype.itemsize != len(data)
        ):
            raise ValueError("a numpy array whose bytes do not fit its shape")
        super().__setstate__((1, shape, dtype.dtype, fortran is True, data))

    def __reduce__(self) -> Tuple:
        return self.view(numpy.ndarray).__reduce__()

    def __reduce_ex__(self, protocol: int) -> Tuple:
        return self.view(numpy.ndarray).__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return repr(self.view(numpy.ndarray))


class Namespace(argparse.Namespace):
    """Stands for argparse.Namespace: attributes by name, but none of Python's own and none of its methods."""

    def __setstate__(self, state: Dict[str, Any]) -> None:
        if type(state) is not dict or not all(_is_attribute(name) for name in state):
            raise ValueError("a Namespace with other things than options")
        vars(self).update(state)
        self.__class__ = argparse.Namespace


def _is_attribute(name: Any) -> bool:
    return type(name) is str and not name.startswith("__") and not hasattr(argparse.Namespace, name)


class Metadata:
    """Stands for what omegaconf keeps of a container or value beside it. Key and flags are used; types are not."""

    key: Any = None
    flags: Dict[str, bool] = {}

    def __setstate__(self, state: Dict[str, Any]) -> None:
        if type(state) is not dict:
            raise ValueError("omegaconf's metadata in an unknown format")
        self.key = state["key"] if type(state.get("key")) in _KEYS else None
        flags = state.get("flags")
        if type(flags) is dict:
            known = ("readonly", "struct", "allow_objects")
            self.flags = {name: flags[name] for name in known if type(flags.get(name)) is bool}


class ConfigValue:
    """Stands for omegaconf's nodes: a value within a container."""

    def __setstate__(self, state: Dict[str, Any]) -> None:
        if type(state) is not dict:
            raise ValueError("an omegaconf value in an unknown format")
        self.value = state.get("_val")


class DictConfig(omegaconf.DictConfig):
    """Stands for omegaconf's: made anew from content, place and flags, with values of any type and no other state."""

    def __setstate__(self, state: Dict[str, Any]) -> None:
        _make_anew(self, omegaconf.DictConfig, state, {})


class ListConfig(omegaconf.ListConfig):
    """Stands for omegaconf's, as `DictConfig` does."""

    def __setstate__(self, state: Dict[str, Any]) -> None:
        _make_anew(self, omegaconf.ListConfig, state, [])


_KEYS = (str, int, float, bool, bytes)


def _make_anew(config: Any, kind: type, state: Dict[str, Any], empty: Any) -> None:
    """Values are not looked at, and those of other places not put in. What the container stands in, and what stands in
    it, may be unfinished still: `misplaced` looks at that."""
    if type(state) is not dict:
        raise ValueError("an omegaconf container in an unknown format")
    content, metadata, parent = state.get("_content"), state.get("_metadata"), state.get("_parent")
    if type(content) is dict and kind is omegaconf.DictConfig and all(type(key) in _KEYS for key in content):
        content = {key: _node(config, key, part) for key, part in content.items()}
    elif type(content) is list and kind is omegaconf.ListConfig:
        content = [_node(config, key, part) for key, part in enumerate(content)]
    elif content is not None and type(content) is not str:  # text: missing, or the value of another place
        raise ValueError("an omegaconf container in an unknown format")
    if parent is not None and not isinstance(parent, (omegaconf.DictConfig, omegaconf.ListConfig)):
        raise ValueError("an omegaconf container within something else")
    object.__setattr__(config, "__class__", kind)
    kind.__init__(config, empty)
    vars(config).update(_content=content, _parent=parent)
    if type(metadata) is Metadata:
        config._metadata.key, config._metadata.flags = metadata.key, dict(metadata.flags)


def _node(config: Any, key: Any, part: Any) -> Any:
    if isinstance(part, (omegaconf.DictConfig, omegaconf.ListConfig)):
        return part
    if type(part) is not ConfigValue or not hasattr(part, "value"):
        raise ValueError("an omegaconf container of something else")
    node = omegaconf.AnyNode(None, key=key)
    vars(node).update(_val=part.value, _parent=config)
    return node


def misplaced(config: Any) -> bool:
    """Whether a container of omegaconf is within itself, or what it holds says that it is elsewhere."""
    content = vars(config)["_content"]
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    if any(vars(part).get("_parent") is not config for part in parts):
        return True
    seen, place = set(), config
    while place is not None:
        if id(place) in seen:
            return True
        seen.add(id(place))
        place = vars(place).get("_parent")
    return False


class TypeName:
    """Stands for a class that a pickle mentions beside a value, and that nothing is made of."""

    def __new__(cls, *_: Any) -> "TypeName":
        raise ValueError("a class that is called, where only its name is expected")


def default_dict(*_: Any) -> Dict:
    """Stands for collections.defaultdict, whose factory could be anything: an empty dict."""
    return {}


def no_bytes() -> bytes:
    """Stands for bytes, which pickle calls for an empty one alone."""
    return b""


def named() -> List[Tuple[Callable, str]]:
    """Pairs (what it stands for, name) for torch.serialization.add_safe_globals."""
    meanings = [
        (Namespace, ["argparse.Namespace"]),
        (default_dict, ["collections.defaultdict"]),
        (no_bytes, ["builtins.bytes"]),
        (DictConfig, ["omegaconf.dictconfig.DictConfig"]),
        (ListConfig, ["omegaconf.listconfig.ListConfig"]),
        (Metadata, ["omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"]),
        (ConfigValue, [f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")]),
        (TypeName, [f"builtins.{kind}" for kind in ("dict", "list", "tuple", "str", "int", "float", "bool")]),
        (TypeName, ["typing.Any", "typing.List", "typing.Dict", "numpy.ndarray"]),
        (Dtype, ["numpy.dtype"]),
        # before numpy 2, and since
        (Array, ["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"]),
        (scalar, ["numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"]),
    ]
    return [(meaning, name) for meaning, names in meanings for name in names]
