"""All layers of a stack at one step of decoding as one operator on a CPU.

A layer in PyTorch is some 60 operators. Where few rows are decoded, calling them takes longer than what they compute, and where
many are, each carries everything to memory and back.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .backends import backends

torch.library.define(
    "fairseq_srupp::cpu_step",
    "(Tensor x, Tensor[] weights, Tensor[] states, Tensor(a!)[] caches, int[] starts, int positions, Tensor allowed, int norm, "
    "bool query_key_norm) -> (Tensor h, Tensor c)",
)
torch.library.define("fairseq_srupp::cpu_linear", "(Tensor x, Tensor weight, Tensor scales) -> Tensor")

NORMS = ("none", "pre", "post")
"""Where the layer norm stands, as the operator numbers it."""


@functools.cache
def available() -> bool:
    """Whether the operators are built; an older build of the kernels has none."""
    return backends()["cpu"][0] and torch._C._dispatch_has_kernel_for_dispatch_key("fairseq_srupp::cpu_linear", "CPU")


FEW_ROWS = 16
"""Up to so many rows the operator has kernels of its own for products, with more they are PyTorch's."""


def products_in(dtype: torch.dtype, rows: int) -> bool:
    """Whether there are fast and exact products of weights of this dtype for so many rows. In int8 PyTorch's `_int_mm` is so
    on processors with the instructions for it."""
    return dtype != torch.int8 or rows <= FEW_ROWS or torch.cpu._is_vnni_supported()


def decoding_step(
    x: Tensor,
    weights: list[Tensor],
    states: list[Tensor],
    caches: list[Tensor],
    starts: list[int],
    positions: int,
    allowed: Tensor,
    norm: str,
    query_key_norm: bool,
) -> tuple[Tensor, Tensor]:
    """One step of N layers for B = G g rows, g to a sentence. No gradients.

    All tensors are on the CPU and contiguous. What is not there is an empty tensor.

    Args:
        x: (B, d), fp32, the input of the first layer.
        weights: five tensors for each layer. The first four are in_proj (d', d), query_proj (d', d'), kv_proj (2d', d') and
            out_proj (3d, d'), in fp32, bf16 or int8; without in_proj, out_proj is (3d, d). The fifth has all other numbers in
            fp32, in the order in which they are used: for each of these matrices a scale of each output, where the layer norm
            stands its weight and bias, before alpha the gains of queries and keys, alpha, weight_c (2, d) and bias (2, d).
        states: of each layer c (B, d) before the step, fp32; an empty list: zeros.
        caches: of each layer keys and values (2, G, H, any, d'/H), fp32 or bf16.
        starts: of each cache the first of K positions that are seen. The last g of them are for the keys and values of this step,
            which are written there.
        positions: K.
        allowed: bool (G, 1, g, K), True at what a row sees; empty: all.
        norm: one of NORMS.
        query_key_norm: whether there are gains of queries and keys.

    Returns:
        h (B, d) of the last layer and c (N, B, d) after the step, in fp32.

    Raises:
        RuntimeError: a shape or dtype that does not fit.
    """
    step = torch.ops.fairseq_srupp.cpu_step.default
    return step(x, weights, states, caches, starts, positions, allowed, NORMS.index(norm), query_key_norm)


def linear(x: Tensor, weight: Tensor, scales: Tensor) -> Tensor:
    """x W^T with weights of decoding_step, as that computes it.

    Args:
        x: (B, K), fp32.
        weight: W (N, K), fp32, bf16 or int8.
        scales: (N,), fp32.

    Returns:
        (B, N), fp32.

    Raises:
        RuntimeError: a shape or dtype that does not fit.
    """
    return torch.ops.fairseq_srupp.cpu_linear.default(x, weight, scales)
