"""The values that text stands for: Python's literals, joined and repeated."""

import ast
from typing import Any

_LONGEST = 10_000  # elements of a list or characters of a text; "[(512, 3)] * 20" needs 20
_LONGEST_TEXT = 100_000  # characters; some texts take Python time that grows with their square
_EXPECTED = "expected numbers, text, lists and the like, with + and * at most"


def literal(text: str) -> Any:
    """The value of a Python expression that is made of literals, and of + and * between them.

    Raises:
        ValueError: saying why, for everything else (names, calls, other operators) and for results of more than
            10,000 elements, of texts of more than 100,000 characters too. Nothing is executed.
    """
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"it has more than {_LONGEST_TEXT:,} characters")
    try:
        return _value(ast.parse(text.lstrip(" \t"), mode="eval").body)
    except (SyntaxError, TypeError, MemoryError, RecursionError, OverflowError) as error:
        raise ValueError(f"it cannot be read ({getattr(error, 'msg', error)}): {_EXPECTED}") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_value(element) for element in node.elts)
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values)}
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        return -_value(node.operand) if isinstance(node.op, ast.USub) else +_value(node.operand)
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
        left, right = _value(node.left), _value(node.right)
        is_sum = isinstance(node.op, ast.Add)
        if _length(left, right, is_sum) > _LONGEST:
            raise ValueError(f"it has more than {_LONGEST:,} elements")
        return left + right if is_sum else left * right
    raise ValueError(f"it is more than a value: {_EXPECTED}")


def _length(left: Any, right: Any, is_sum: bool) -> int:
    """Of what + or * makes: elements, characters, or the digits (in 64 bits) of a number."""
    sizes = [len(x) if hasattr(x, "__len__") else None for x in (left, right)]
    if sizes == [None, None]:
        return sum(x.bit_length() // 64 for x in (left, right) if isinstance(x, int))
    if is_sum:
        return sum(size or 0 for size in sizes)
    counts = [x if size is None else size for x, size in zip((left, right), sizes)]
    return counts[0] * counts[1]
