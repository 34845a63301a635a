"""The recurrence in plain PyTorch, one time step after the other: what every compiled kernel has to compute.

Per channel (paper, section 2, equations 2 to 5; m is the dropout mask; state in fp32, in fp64 for fp64):

    f_t = sigmoid(uf_t + v_f * c_{t-1} + b_f)
    r_t = sigmoid(ur_t + v_r * c_{t-1} + b_r)
    c_t = f_t * c_{t-1} + (1 - f_t) * u_t
    h_t = x_t + m * r_t * (c_t - x_t)

A padded step copies c, gives h = 0, has no gradients. With `bidirectional`, the second half of the channels
runs backwards in time. The arguments of both functions are those of the operators in recurrence.py: they are
checked, c0 and dropout_mask are in the dtype of the state, weight_c and bias both in that or both in the dtype of u.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
    h_steps, c_steps = torch.empty_like(skip), torch.empty_like(skip)
    for t in range(length):
        f = torch.sigmoid(forget[t] + v_f * c + b_f)
        r = torch.sigmoid(reset[t] + v_r * c + b_r)
        c_next = f * c + (1 - f) * candidate[t]
        scale = r if dropout_mask is None else r * dropout_mask
        h = skip[t] + scale * (c_next - skip[t])
        if padded is not None:
            c_next, h = torch.where(padded[t], c, c_next), h.masked_fill(padded[t], 0)
        c = c_next
        h_steps[t], c_steps[t] = h, c
    saved = _turn(c_steps, bidirectional).to(x.dtype) if save_c else x.new_empty(0)
    return _turn(h_steps, bidirectional).to(x.dtype), c, saved


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

    grad_gates = skip.new_zeros(3, length, batch, channels)
    grad_skip = torch.zeros_like(skip)
    grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(shift)
    grad_c = torch.zeros_like(start) if grad_c_last is None else grad_c_last.clone()
    for t in reversed(range(length)):
        c_before = c_steps[t]
        f = torch.sigmoid(forget[t] + v_f * c_before + b_f)
        r = torch.sigmoid(reset[t] + v_r * c_before + b_r)
        c_now = f * c_before + (1 - f) * candidate[t]
        grad_scaled = grad_h[t] if dropout_mask is None else grad_h[t] * dropout_mask
        grad_now = grad_c + grad_scaled * r
        grad_f = grad_now * (c_before - candidate[t]) * f * (1 - f)
        grad_r = grad_scaled * (c_now - skip[t]) * r * (1 - r)
        step = [grad_now * (1 - f), grad_f, grad_r, grad_h[t] - grad_scaled * r]
        grad_before = grad_now * f + grad_f * v_f + grad_r * v_r
        if padded is not None:
            step = [grad.masked_fill(padded[t], 0) for grad in step]
            grad_before = torch.where(padded[t], grad_c, grad_before)
        grad_c = grad_before
        grad_gates[0, t], grad_gates[1, t], grad_gates[2, t], grad_skip[t] = step
        gates = torch.stack(step[1:3])
        grad_weight += (gates * c_before).sum(1)
        grad_bias += gates.sum(1)
    grad_u = torch.stack([_turn(grad, bidirectional) for grad in grad_gates], dim=2)
    parameters = grad_weight.to(weight_c.dtype), grad_bias.to(bias.dtype)
    return grad_u.to(u.dtype), _turn(grad_skip, bidirectional).to(x.dtype), *parameters, grad_c


def _in_order_of_steps(
    u: Tensor, x: Tensor, padding_mask: Tensor | None, bidirectional: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Candidate, forget, reset, x and padding, each (L, B, D), every channel's own first step at index 0."""
    state = state_dtype(u.dtype)
    padded = None if padding_mask is None else _turn(padding_mask[:, :, None].expand(x.shape), bidirectional)
    candidate, forget, reset, skip = (_turn(step.to(state), bidirectional) for step in (*u.unbind(2), x))
    return candidate, forget, reset, skip, padded


def _turn(steps: Tensor, bidirectional: bool) -> Tensor:
    """(L, B, D) with the second half of the channels reversed in time. Its own inverse."""
    if not bidirectional:
        return steps
    forwards, backwards = steps.chunk(2, dim=-1)
    return torch.cat([forwards, backwards.flip(0)], dim=-1)
