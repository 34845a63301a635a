"""The recurrence in plain PyTorch, one time step after the other: what every compiled kernel has to compute.

Per channel (paper, section 2, equations 2 to 5; m is the dropout mask; state in fp32, in fp64 for fp64):

    f_t = sigmoid(uf_t + v_f * c_{t-1} + b_f)
    r_t = sigmoid(ur_t + v_r * c_{t-1} + b_r)
    c_t = f_t * c_{t-1} + (1 - f_t) * u_t
    h_t = x_t + m * r_t * (c_t - x_t)

A padded step copies c, gives h = 0, has no gradients. With `bidirectional`, the second half of the channels
runs backwards in time.

Infinities and NaN go through these formulas as IEEE arithmetic in the dtype of the state has it: an infinite sum
opens or closes a gate, 0 times infinity and infinity minus infinity are NaN. So c_t is finite where c_{t-1} and u_t
are and the sum of f is no NaN, h_t where c_t and x_t are and the sum of r is no NaN; x infinite makes h NaN. Whether
infinity or NaN stands elsewhere depends on two roundings: a gate is 0 below a sum of about -87 (-708 in fp64), and
1 - f is 0 where f rounds to 1. Gradients follow the same rules, in the order of operations of `recurrence_backward`.
All stays within a row and channel, in outputs from its step on; the gradients of weight_c and bias are sums over rows.
This holds while no product or sum of finite values leaves the range of the dtype. Beyond it kernels may differ from
the reference: they round some products together with a sum.

The arguments of both functions are those of the operators in recurrence.py: they are checked, c0 and dropout_mask are
in the dtype of the state, weight_c and bias both in that or both in the dtype of u.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_CLOSED = {torch.float32: 125.5 * math.log(2), torch.float64: 1021.5 * math.log(2)}
"""A gate is 0 where its sum is below minus this."""


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of state and reductions for inputs of `dtype`: fp64 for fp64, fp32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def recurrence_forward(
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
    """u (L, B, 3, D), x (L, B, D), ... -> h (L, B, D), c_last (B, D), c (L, B, D); c (0,) unless `save_c`."""
    length, batch, channels = x.shape
    (v_f, v_r), (b_f, b_r) = (parameter.to(state_dtype(x.dtype)) for parameter in (weight_c, bias))
    candidate, forget, reset, skip, padded = _in_order_of_steps(u, x, padding_mask, bidirectional)
    c = skip.new_zeros(batch, channels) if c0 is None else c0.clone()
    h_steps, c_steps = [], []
    for t in range(length):
        f, r = _gate(forget[t], v_f, b_f, c), _gate(reset[t], v_r, b_r, c)
        c_next = f * c + (1 - f) * candidate[t]
        scale = r if dropout_mask is None else dropout_mask * r
        h = skip[t] + scale * (c_next - skip[t])
        if padded is not None:
            c_next, h = torch.where(padded[t], c, c_next), h.masked_fill(padded[t], 0)
        c = c_next
        h_steps.append(h)
        c_steps.append(c)
    saved = _turn(_joined(c_steps, skip), bidirectional).to(x.dtype) if save_c else x.new_empty(0)
    return _turn(_joined(h_steps, skip), bidirectional).to(x.dtype), c, saved


def recurrence_backward(
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
    """Gradients of u, x (in their dtype), weight_c, bias (2, D) and c0 (B, D), from those of h and c_last.

    c (L, B, D) is what the forward saved. A gradient that is None is zero.
    """
    length, batch, channels = x.shape
    weight, shift = (parameter.to(state_dtype(x.dtype)) for parameter in (weight_c, bias))
    (v_f, v_r), (b_f, b_r) = weight, shift
    candidate, forget, reset, skip, padded = _in_order_of_steps(u, x, padding_mask, bidirectional)
    grad_h = torch.zeros_like(skip) if grad_h is None else _turn(grad_h.to(skip.dtype), bidirectional)
    start = skip.new_zeros(batch, channels) if c0 is None else c0
    c_steps = torch.cat([start[None], _turn(c.to(start.dtype), bidirectional)])

    steps: list[tuple[Tensor, ...]] = []  # gradients of candidate, forget, reset, x, v_f, v_r
    grad_c = torch.zeros_like(start) if grad_c_last is None else grad_c_last.clone()
    for t in reversed(range(length)):
        c_before = c_steps[t]
        f, r = _gate(forget[t], v_f, b_f, c_before), _gate(reset[t], v_r, b_r, c_before)
        c_now = f * c_before + (1 - f) * candidate[t]
        grad_scaled = grad_h[t] if dropout_mask is None else grad_h[t] * dropout_mask
        by_reset = grad_scaled * r
        grad_now = grad_c + by_reset
        grad_candidate = grad_now * (1 - f)
        grad_f = grad_candidate * f * (c_before - candidate[t])
        grad_r = by_reset * (1 - r) * (c_now - skip[t])
        grad_before = grad_now * f + grad_f * v_f + grad_r * v_r
        step = (grad_candidate, grad_f, grad_r, grad_h[t] - by_reset, grad_f * c_before, grad_r * c_before)
        if padded is not None:
            step = tuple(grad.masked_fill(padded[t], 0) for grad in step)
            grad_before = torch.where(padded[t], grad_c, grad_before)
        grad_c = grad_before
        steps.insert(0, step)
    *gates, grad_x, by_v_f, by_v_r = (_joined(grads, skip) for grads in (zip(*steps) if steps else [()] * 6))
    grad_u = torch.stack([_turn(grad, bidirectional) for grad in gates], dim=2)
    grad_weight = torch.stack([by_v_f.sum((0, 1)), by_v_r.sum((0, 1))]).to(weight_c.dtype)
    grad_bias = torch.stack([gates[1].sum((0, 1)), gates[2].sum((0, 1))]).to(bias.dtype)
    return grad_u.to(u.dtype), _turn(grad_x, bidirectional).to(x.dtype), grad_weight, grad_bias, grad_c


def _gate(z: Tensor, v: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """sigmoid(z + b + v c), which is 0 from where it comes near the denormals, as in the kernels."""
    z = z + b + v * c
    return torch.sigmoid(z.masked_fill(z < -_CLOSED[z.dtype], -math.inf))


def _joined(steps: Sequence[Tensor], like: Tensor) -> Tensor:
    """Steps (B, D) as (L, B, D)."""
    return torch.stack(steps) if steps else torch.empty_like(like)


def _in_order_of_steps(
    u: Tensor, x: Tensor, padding_mask: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Candidate, forget, reset, x and padding, each (L, B, D), every channel's own first step at index 0."""
    state = state_dtype(u.dtype)
    padded = None
    if padding_mask is not None:
        padded = _turn(padding_mask[:, :, None].expand(x.shape), bidirectional)
        u, x = u.masked_fill(padding_mask[:, :, None, None], 0), x.masked_fill(padding_mask[:, :, None], 0)
    candidate, forget, reset, skip = (_turn(step.to(state), bidirectional) for step in (*u.unbind(2), x))
    return candidate, forget, reset, skip, padded


def _turn(steps: Tensor, bidirectional: bool) -> Tensor:
    """(L, B, D) with the second half of the channels reversed in time. Its own inverse."""
    if not bidirectional:
        return steps
    forwards, backwards = steps.chunk(2, dim=-1)
    return torch.cat([forwards, backwards.flip(0)], dim=-1)
