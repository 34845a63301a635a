"""Which CUDA kernel a call takes, in how many blocks, and with which arguments.

The kernels and their side of the structures are in csrc/cuda/kernels.cuh, the same choices for the compiled module in
csrc/cuda/recurrence.cpp. Who launches is up to the caller: a driver, or the tests' CPU.
"""

from __future__ import annotations

import ctypes
from typing import Callable

import torch
from torch import Tensor

from fairseq_srupp.ops.reference import state_dtype

WARP = 32
MANY_WARPS = 256
"""Where two channels a lane leave as many warps, half precision has them: rows of 128 bytes instead of 64 bring the memory
closer to its full speed. With fewer warps many schedulers have one or none, and what counts is how long it takes for a step,
which is less with one channel. An H200 has 132 processors of 4 schedulers; there, with D = 3072 in bf16, 192 warps of two
channels a lane (B = 4) are slower than 384 of one, and 768 (B = 16) faster than 1,536. Between them nothing is measured.
"""
_THREADS = 256  # of a block of the kernels that have no warps of their own


def _structure(name: str, pointers: str, integers: str = "", base: type | None = None) -> type:
    fields = [] if base is None else [("common", base)]
    fields += [(field, ctypes.c_void_p) for field in pointers.split()]
    fields += [(field, ctypes.c_longlong) for field in integers.split()]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


CommonArguments = _structure(
    "CommonArguments", "u x weight_c bias c0 mask padding", "length batch channels directions narrow_parameters"
)
ForwardArguments = _structure("ForwardArguments", "h c c_last", base=CommonArguments)
BackwardArguments = _structure("BackwardArguments", "c grad_h grad_c_last grad_u grad_x parts grad_c0", base=CommonArguments)
SumArguments = _structure("SumArguments", "parts grad_weight_c grad_bias", "batch channels narrow_parameters")

Launch = Callable[[str, int, int, ctypes.Structure], None]
"""Starts a kernel: its name, the number of blocks, the threads of a block, its arguments."""


def forward(
    launch: Launch,
    u: Tensor,
    x: Tensor,
    weight_c: Tensor,
    bias: Tensor,
    c0: Tensor | None,
    dropout_mask: Tensor | None,
    padding_mask: Tensor | None,
    bidirectional: bool,
    save_c: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator `*_forward` of recurrence.py: contiguous tensors to (h, c_last, c)."""
    inputs = _contiguous(u, x, weight_c, bias, c0, dropout_mask, padding_mask)
    h, c = torch.empty_like(inputs[1]), torch.empty_like(inputs[1]) if save_c else x.new_empty(0)
    c_last = x.new_empty(x.shape[1:], dtype=state_dtype(x.dtype))
    arguments = ForwardArguments(
        _common(inputs, bidirectional), h.data_ptr(), c.data_ptr() if save_c else None, c_last.data_ptr()
    )
    if x.size(0) == 1:
        _launch(launch, f"step_{_type(x)}", -(-c_last.numel() // _THREADS), _THREADS, arguments)
    else:
        name, warps = _kernel("forward", x, inputs[:2], bidirectional)
        _launch(launch, name, warps, WARP, arguments)
    return h, c_last, c


def backward(
    launch: Launch,
    grad_h: Tensor | None,
    grad_c_last: Tensor | None,
    u: Tensor,
    x: Tensor,
    weight_c: Tensor,
    bias: Tensor,
    c0: Tensor | None,
    dropout_mask: Tensor | None,
    padding_mask: Tensor | None,
    c: Tensor,
    bidirectional: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The operator `*_backward` of recurrence.py: to (grad_u, grad_x, grad_weight_c, grad_bias, grad_c0)."""
    inputs = _contiguous(u, x, weight_c, bias, c0, dropout_mask, padding_mask)
    saved = _contiguous(c, grad_h, grad_c_last)
    _, batch, channels = x.shape
    grad_u, grad_x = torch.empty_like(inputs[0]), torch.empty_like(inputs[1])
    grad_weight_c, grad_bias = torch.empty_like(inputs[2]), torch.empty_like(inputs[3])
    grad_c0, parts = (x.new_empty(size, dtype=state_dtype(x.dtype)) for size in ((batch, channels), (batch, 4, channels)))
    outputs = [grad_u.data_ptr(), grad_x.data_ptr(), parts.data_ptr(), grad_c0.data_ptr()]
    arguments = BackwardArguments(_common(inputs, bidirectional), *map(_address, saved), *outputs)
    name, warps = _kernel("backward", x, [*inputs[:2], *saved[:2]], bidirectional)
    _launch(launch, name, warps, WARP, arguments)
    gradients = [parts.data_ptr(), grad_weight_c.data_ptr(), grad_bias.data_ptr()]
    sums = SumArguments(*gradients, batch, channels, arguments.common.narrow_parameters)
    _launch(launch, f"sum_{_type(x)}", -(-4 * channels // _THREADS), _THREADS, sums)
    return grad_u, grad_x, grad_weight_c, grad_bias, grad_c0


def _contiguous(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if tensor is None else tensor.contiguous() for tensor in tensors]


def _launch(launch: Launch, name: str, blocks: int, threads: int, arguments: ctypes.Structure) -> None:
    if blocks > 0:
        launch(f"srupp_{name}", blocks, threads, arguments)


def _common(inputs: list[Tensor | None], bidirectional: bool) -> CommonArguments:
    _, x, weight_c, *_ = inputs
    narrow = weight_c.dtype != state_dtype(x.dtype)
    return CommonArguments(*map(_address, inputs), *x.shape, 2 if bidirectional else 1, narrow)


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _type(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _kernel(way: str, x: Tensor, tensors: list[Tensor | None], bidirectional: bool) -> tuple[str, int]:
    """The kernel of a sequence, named by the bytes of the pieces in which rows can be read and the channels of a lane; and
    its warps."""
    piece = _piece(tensors, bidirectional)
    channels = 2 if piece == 16 and x.element_size() == 2 and _warps(x, bidirectional, 2) >= MANY_WARPS else 1
    return f"{way}_{piece}_{channels}_{_type(x)}", _warps(x, bidirectional, channels)


def _warps(x: Tensor, bidirectional: bool, channels: int) -> int:
    """A warp for every sequence, direction and group of 32 lanes, which have 1 or 2 channels."""
    directions = 2 if bidirectional else 1
    return x.size(1) * directions * -(-x.size(2) // directions // (WARP * channels))


def _piece(tensors: list[Tensor | None], bidirectional: bool) -> int:
    """In pieces of how many bytes rows can be read."""
    element = tensors[0].element_size()
    places = tensors[0].size(3) // (2 if bidirectional else 1) * element
    for tensor in tensors:
        places |= 0 if tensor is None else tensor.data_ptr()
    return 16 if places % 16 == 0 else 4 if element < 4 and places % 4 == 0 else element
