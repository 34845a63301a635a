"""Operators under torch.func (grad, vjp, vmap) and forward-mode differentiation.

An operator of torch.library has no part in either by itself: what `register_autograd` makes is refused by torch.func, and
tangents are dropped without a word.
"""

from __future__ import annotations

from typing import Any, Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad


def in_forward_mode() -> bool:
    """Whether tensors may have tangents: within `forward_ad.dual_level`, `torch.func.jvp`, `jacfwd`."""
    return forward_ad._current_level >= 0


def in_transform() -> bool:
    """Whether a transform of torch.func is under way."""
    return torch._C._are_functorch_transforms_active()


def transformable(
    operator: Callable[..., Any], backward: Callable[..., Any], setup_context: Callable[..., None]
) -> type[torch.autograd.Function]:
    """A torch.autograd.Function that computes what `operator` does, in the form that torch.func asks for."""
    # As `forward` torch.compile takes an operator for something to leave alone; in a Python function it would get stuck.
    functions = {"forward": operator, "backward": backward, "setup_context": setup_context}
    static = {name: staticmethod(function) for name, function in functions.items()}
    return type("Transformable", (torch.autograd.Function,), {**static, "generate_vmap_rule": True})


def one_by_one(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """The rule of `torch.library.register_vmap` that calls `operator` for each element."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        calls = []
        for i in range(info.batch_size):
            calls.append(operator(*(a if d is None else a.select(d, i) for a, d in zip(arguments, in_dims))))
        outputs = tuple(torch.stack(output) for output in zip(*calls))
        return outputs, (0,) * len(outputs)

    return rule
