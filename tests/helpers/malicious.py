"""Checkpoints whose pickles call what they may name with arguments and states that it was not made for.

A program is the bytes of a pickle without its beginning and its end; `write` makes a file of one.
"""

import pickle
import random
import zipfile
from typing import Any, Iterator, Tuple

from fairseq_srupp.compat.files import allowed_classes


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def value(thing: Any) -> bytes:
    return pickle.dumps(thing, protocol=2)[2:-1]


def tuple_of(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def dict_of(**parts: bytes) -> bytes:
    return b"}(" + b"".join(value(key) + part for key, part in parts.items()) + b"u"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tuple_of(*arguments) + b"R"


def new(kind: bytes, *arguments: bytes) -> bytes:
    return kind + tuple_of(*arguments) + b"\x81"


def set_state(thing: bytes, state: bytes) -> bytes:
    return thing + state + b"b"


def write(path, program: bytes, key: str = "model") -> None:
    """A checkpoint whose `key` is what the program makes, in the format of torch.save."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}" + value(key) + program + b"s.")
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


DTYPE, ARRAY, RECONSTRUCT, SCALAR = (
    name("numpy", "dtype"),
    name("numpy", "ndarray"),
    name("numpy._core.multiarray", "_reconstruct"),
    name("numpy._core.multiarray", "scalar"),
)
_NAMESPACE, _CONFIG = name("argparse", "Namespace"), name("omegaconf.dictconfig", "DictConfig")


def dtype(code: str = "f8") -> bytes:
    return call(DTYPE, value(code), value(False), value(True))


def dtype_of_objects() -> bytes:
    """A number that has objects as its sub-dtype: bytes become addresses."""
    objects = tuple_of(call(DTYPE, value("O8"), value(False), value(True)), value((1,)))
    rest = [value(None), value(None), value(8), value(8), value(0)]
    return set_state(dtype(), tuple_of(value(3), value("<"), objects, *rest))


def array(kind: bytes, shape: Tuple, data: bytes) -> bytes:
    empty = call(RECONSTRUCT, ARRAY, value((0,)), value(b"b"))
    return set_state(empty, tuple_of(value(1), value(shape), kind, value(False), value(data)))


def config(**state: bytes) -> bytes:
    return set_state(new(_CONFIG), dict_of(**state))


def crafted() -> Iterator[Tuple[str, bytes]]:
    """Attacks with a purpose, by name."""
    whole = tuple_of(value(3), value("<"), value(None), value(None), value(None), value(-1), value(-1), value(0))
    objects = call(ARRAY, value((1,)), dtype_of_objects(), value(b"A" * 16))
    yield "objects as sub-dtype", call(name("builtins", "str"), objects)
    yield "array of objects", array(dtype_of_objects(), (2,), b"A" * 16)
    yield "array of pointers", array(call(DTYPE, value("O8"), value(False), value(True)), (2,), b"A" * 16)
    yield "number that is an object", call(SCALAR, call(DTYPE, value("O8")), value(b"A" * 8))
    yield "array larger than its bytes", array(set_state(dtype(), whole), (1 << 40,), b"A" * 8)
    yield "array of negative size", array(dtype(), (-1, -2), b"A" * 16)
    yield "size that overflows", array(dtype("u1"), (1 << 32, 1 << 32), b"")
    yield "buffer of another size", call(ARRAY, value((1 << 20,)), dtype(), value(b"A" * 8))
    # An array that is set once more after a tensor has taken its memory.
    keep = array(dtype(), (512,), b"A" * 4096) + b"q\x07"
    from_numpy = name("torch._utils", "_rebuild_device_tensor_from_numpy")
    tensor = call(from_numpy, b"h\x07", name("torch", "float64"), value("cpu"), value(False))
    again = set_state(b"h\x07", tuple_of(value(1), value((1,)), dtype(), value(False), value(b"B" * 8)))
    yield "memory that is used after it was freed", tuple_of(keep, tensor, again)
    for attribute in ("__class__", "__deepcopy__", "_get_kwargs", "__dict__"):
        yield f"Namespace with {attribute}", set_state(new(_NAMESPACE), dict_of(**{attribute: _CONFIG}))
    slots = tuple_of(value(None), dict_of(__class__=_CONFIG))
    yield "Namespace of another class", set_state(new(_NAMESPACE), slots)
    yield "DictConfig of another class", set_state(new(_CONFIG), slots)
    yield "unfinished DictConfig", new(_CONFIG)
    yield "unfinished Namespace within others", tuple_of(b"]" + new(_NAMESPACE) + b"a")
    yield "method of a DictConfig", config(_content=value({}), _get_flag=name("builtins", "str"))
    loop = new(_CONFIG) + b"q\x07" + dict_of(_content=dict_of(a=b"h\x07"), _parent=b"h\x07") + b"b"
    yield "DictConfig within itself", loop
    parent = new(_CONFIG) + b"q\x07" + dict_of(_content=value({}), _parent=b"h\x07") + b"b"
    yield "DictConfig that is its own parent", parent
    inner = new(_CONFIG) + b"q\x08" + dict_of(_content=dict_of(a=b"h\x07"), _parent=b"h\x07") + b"b"
    yield "DictConfig within its own part", new(_CONFIG) + b"q\x07" + dict_of(_content=dict_of(a=inner)) + b"b"
    yield "DictConfig of what is none", config(_content=dict_of(a=name("builtins", "str")))
    yield "DictConfig with a list for a key", config(_content=b"}" + value((1,)) + value(1) + b"s")
    yield "factory of a defaultdict", call(name("collections", "defaultdict"), name("torch", "Tensor"))
    yield "list of bytes", call(name("builtins", "list"), value(b"A" * 100))
    yield "number of digits", call(name("builtins", "int"), value("9" * 100_000))
    placeholder = name("fairseq.distributed.utils", "_TensorPlaceholder")
    yield "placeholder of a tensor", set_state(new(placeholder), dict_of(index=value(7)))


def mutated(seed: int) -> bytes:
    """A program that puts names, calls and states together at random."""
    choice = random.Random(seed)
    names = [name(*full.rsplit(".", 1)) for _, full in allowed_classes.named()]
    names += [name("torch._tensor", "_rebuild_from_type_v2"), name("torch._utils", "_rebuild_device_tensor_from_numpy")]
    codes = ["O8", "V8", "S4", "U1", "M8", "f8", "i4", "b1", "f16", "c16", "<f8", "(2,)f8", "f8,O", "", "x" * 50]
    things = [None, True, 0, 1, -1, 3, 1 << 31, 1 << 62, -(1 << 63), 0.5, float("nan"), "<", "|", ">", "${a}", "???"]
    things += [*codes, b"", b"A" * 8, b"A" * 16, (), (0,), (1,), (2,), (1 << 40,), (-1,), ("f8", False, True), [1], {}]
    keys = ["_content", "_metadata", "_parent", "_val", "flags", "a", "__class__", "_get_kwargs", "index"]

    def some(depth: int) -> bytes:
        kind = choice.randrange(8 if depth < 4 else 2)
        if kind == 0:
            return value(choice.choice(things))
        if kind == 1:
            return choice.choice(names)
        if kind == 2:
            return tuple_of(*(some(depth + 1) for _ in range(choice.randrange(9))))
        if kind == 3:
            return dict_of(**{key: some(depth + 1) for key in choice.sample(keys, choice.randrange(4))})
        if kind == 4:
            make = choice.choice([call, new])
            return make(choice.choice(names), *(some(depth + 1) for _ in range(choice.randrange(5))))
        if kind == 5:
            return set_state(some(depth + 1), some(depth + 1))
        if kind == 6:
            size = choice.randrange(4)
            kinds = [dtype(choice.choice(codes)), dtype_of_objects(), some(depth + 1)]
            content = value(b"A" * choice.choice([0, 8 * size]))
            state = [value(1), value((size,)), choice.choice(kinds), value(False), content]
            if choice.random() < 0.3:
                state[choice.randrange(5)] = some(depth + 1)
            return set_state(call(RECONSTRUCT, ARRAY, value((0,)), value(b"b")), tuple_of(*state))
        state = [value(3), value("<"), value(None), value(None), value(None), value(-1), value(-1), value(0)]
        for _ in range(choice.randrange(3)):
            state[choice.randrange(8)] = some(depth + 1)
        return set_state(call(DTYPE, value(choice.choice(codes)), value(False), value(True)), tuple_of(*state))

    return some(0)
