"""The public operator: checks, schema, fake kernels, autograd. The arithmetic is in reference.py and csrc/.

Each backend has two operators, `fairseq_srupp::<backend>_forward` and `<backend>_backward`. They are defined
here, so that they exist in a plain clone as well; a compiled module only registers kernels for them.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from fairseq_srupp.ops import cuda_launch, nvrtc, reference
from fairseq_srupp.ops.autocast import autocast_dtype
from fairseq_srupp.ops.backends import FALLBACK, OPERATOR_NAMES, choose_backend, warn_of_reference
from fairseq_srupp.ops.reference import state_dtype
from fairseq_srupp.ops.transforms import in_forward_mode, in_transform, one_by_one, transformable

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
_FORWARD_SCHEMA = (
    "(Tensor u, Tensor x, Tensor weight_c, Tensor bias, Tensor? c0, Tensor? dropout_mask, "
    "Tensor? padding_mask, bool bidirectional, bool save_c) -> (Tensor h, Tensor c_last, Tensor c)"
)
_SCRIPT_SCHEMA = (
    "(Tensor u, Tensor x, Tensor weight_c, Tensor bias, Tensor? c0, Tensor? dropout_mask, Tensor? padding_mask, "
    "bool bidirectional) -> (Tensor h, Tensor c_last)"
)
_BACKWARD_SCHEMA = (
    "(Tensor? grad_h, Tensor? grad_c_last, Tensor u, Tensor x, Tensor weight_c, Tensor bias, Tensor? c0, "
    "Tensor? dropout_mask, Tensor? padding_mask, Tensor c, bool bidirectional) "
    "-> (Tensor grad_u, Tensor grad_x, Tensor grad_weight_c, Tensor grad_bias, Tensor grad_c0)"
)


def sru_recurrence(
    u: Tensor,
    x: Tensor,
    weight_c: Tensor,
    bias: Tensor,
    c0: Tensor | None = None,
    *,
    dropout_mask: Tensor | None = None,
    padding_mask: Tensor | None = None,
    bidirectional: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """The elementwise recurrence of SRU and SRU++ (paper, section 2, equations 2 to 5; see reference.py).

    Args:
        u: (L, B, 3, D) candidate, forget gate and reset gate before the recurrence; fp32, fp64, fp16 or bf16.
        x: (L, B, D) what the highway connection mixes in; the dtype of u (under autocast it is cast to that).
        weight_c: (2, D) weights [v_f, v_r] of the state in the gates; the dtype of u, or fp32.
        bias: (2, D) biases [b_f, b_r] of the gates; the dtype of u, or fp32.
        c0: (B, D) state before the first step, zeros if None; fp32 (fp64 where u is fp64).
        dropout_mask: (B, D) scale m of r * (c - x), the same for all steps; any floating dtype; no gradient.
        padding_mask: (L, B) bool, True where a step is padding: it copies c, gives h = 0, has no gradients.
        bidirectional: D = 2d, and the second d channels run backwards in time: their first step is t = L - 1.
        backend: one of the names in `backends()`; None takes the fastest there is for the device of u.

    Returns:
        h (L, B, D) in the dtype of u, and c_last (B, D) in that of c0: the state after the last step of each
        direction, which is t = 0 for the second.

    `torch.func.grad`, `vjp`, `jacrev` and `vmap` run on the kernels, with a call for each element that `vmap` maps over.
    Forward mode (`torch.func.jvp`, `jacfwd`, `hessian`, `make_dual`) takes the PyTorch reference, whatever the backend:
    PyTorch differentiates it in all ways, but slowly. Outside of forward mode, gradients have no gradients.

    Infinities and NaN are no errors; what comes of them is said in reference.py. They stay within their row and
    channel, and in outputs within the steps from theirs on; what stands in the padding goes nowhere.

    Raises:
        ValueError: a shape or device that does not fit, an unknown backend or one for another device.
        TypeError: a dtype that does not fit.
        RuntimeError: the requested backend is not available here; a second derivative.
    """
    if autocast_dtype(u.device.type) is not None:
        x = x.to(u.dtype)
    _check(u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional)
    name = choose_backend(u.device.type, backend, u.get_device())
    state = state_dtype(u.dtype)
    mask = None if dropout_mask is None else dropout_mask.to(state)
    if not weight_c.dtype == bias.dtype == u.dtype:  # what is as narrow as u is widened within the kernels
        weight_c, bias = weight_c.to(state), bias.to(state)
    tensors = (u, x, weight_c, bias, c0, mask, padding_mask)
    tensors = [None if tensor is None else tensor.contiguous() for tensor in tensors]
    if in_forward_mode():
        h, c_last, _ = reference.recurrence_forward(*tensors, bidirectional, False)
    elif in_transform():  # which tells of no gradients from inside of vmap
        h, c_last, _ = _TRANSFORMABLE[name, "forward"].apply(*tensors, bidirectional, True)
    else:
        needed = [tensor is not None and tensor.requires_grad for tensor in tensors]
        save_c = torch.is_grad_enabled() and any(needed)
        h, c_last, _ = _operator(name, "forward")(*tensors, bidirectional, save_c)
    return h, c_last


def _operator(backend: str, direction: str):
    return getattr(torch.ops.fairseq_srupp, f"{backend}_{direction}").default


def _check(u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional) -> None:
    """Raises ValueError (shape, device) or TypeError (dtype) for the first argument that does not fit u."""
    if u.dim() != 4 or u.shape[2] != 3:
        raise ValueError(f"sru_recurrence: u has shape {tuple(u.shape)}, expected (L, B, 3, D)")
    if u.dtype not in _DTYPES:
        expected = ", ".join(map(str, _DTYPES))
        raise TypeError(f"sru_recurrence: u has dtype {u.dtype}, expected one of {expected}")
    length, batch, _, channels = u.shape
    if bidirectional and channels % 2:
        raise ValueError(f"sru_recurrence: u has D = {channels} channels, expected an even D if bidirectional")
    state, io = (state_dtype(u.dtype),), (u.dtype,)
    parameter = (u.dtype, torch.float32)
    for name, tensor, axes, shape, dtypes in (
        ("x", x, "(L, B, D)", (length, batch, channels), io),
        ("weight_c", weight_c, "(2, D)", (2, channels), parameter),
        ("bias", bias, "(2, D)", (2, channels), parameter),
        ("c0", c0, "(B, D)", (batch, channels), state),
        ("dropout_mask", dropout_mask, "(B, D)", (batch, channels), _DTYPES),
        ("padding_mask", padding_mask, "(L, B)", (length, batch), (torch.bool,)),
    ):
        if tensor is None:
            continue
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"sru_recurrence: {name} has shape {tuple(tensor.shape)}, expected {axes} = {shape} "
                f"for u of shape {tuple(u.shape)}"
            )
        if tensor.dtype not in dtypes:
            expected = " or ".join(dict.fromkeys(map(str, dtypes)))
            raise TypeError(f"sru_recurrence: {name} has dtype {tensor.dtype}, expected {expected} for u of dtype {u.dtype}")
        if tensor.device != u.device:
            where = f"is on {tensor.device}, expected {u.device}, the device of u"
            raise ValueError(f"sru_recurrence: {name} {where}")
    if dropout_mask is not None and dropout_mask.requires_grad:
        raise ValueError("sru_recurrence: dropout_mask requires a gradient, expected one that is detached")


def _fake_forward(u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional, save_c):
    saved = x.shape if save_c else (0,)
    return x.new_empty(x.shape), _new_state(x), x.new_empty(saved)


def _new_state(x):
    return x.new_empty(x.shape[1:], dtype=state_dtype(x.dtype))


def _fake_backward(grad_h, grad_c_last, u, x, weight_c, bias, c0, dropout_mask, padding_mask, c, bidirectional):
    parameters = weight_c.new_empty(weight_c.shape), bias.new_empty(bias.shape)
    return u.new_empty(u.shape), x.new_empty(x.shape), *parameters, _new_state(x)


def _save_for_backward(ctx, inputs, output) -> None:
    *tensors, ctx.bidirectional, ctx.has_c = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


_TRANSFORMABLE: dict[tuple[str, str], type[torch.autograd.Function]] = {}  # of backend and direction


def _define(backend: str) -> None:
    """Defines the two operators of a backend, their fake kernels and what differentiates and maps them."""
    forward, backward = f"fairseq_srupp::{backend}_forward", f"fairseq_srupp::{backend}_backward"
    torch.library.define(forward, _FORWARD_SCHEMA)
    torch.library.define(backward, _BACKWARD_SCHEMA)
    torch.library.register_fake(forward, _fake_forward)
    torch.library.register_fake(backward, _fake_backward)

    def differentiate(ctx, grad_h, grad_c_last, _):
        if not ctx.has_c:
            raise RuntimeError(f"{forward} was called with save_c=False, so it has no gradients")
        if in_forward_mode():  # begun after the call: only grad_h and grad_c_last have tangents
            function = reference.recurrence_backward
        elif in_transform():
            function = _TRANSFORMABLE[backend, "backward"].apply
        else:
            function = _operator(backend, "backward")
        gradients = function(grad_h, grad_c_last, *ctx.saved_tensors, ctx.bidirectional)
        wanted = [grad if need else None for grad, need in zip(gradients, ctx.needs_input_grad)]
        return *wanted, None, None, None, None

    def refuse(ctx, *_):
        raise RuntimeError("sru_recurrence has no second derivatives")

    for direction, name, formula, save in (
        ("forward", forward, differentiate, _save_for_backward),
        ("backward", backward, refuse, lambda ctx, inputs, output: None),
    ):
        torch.library.register_autograd(name, formula, setup_context=save)
        operator = _operator(backend, direction)
        torch.library.register_vmap(name, one_by_one(operator))
        _TRANSFORMABLE[backend, direction] = transformable(operator, formula, save)


def _nvrtc_forward(u, *others):
    return cuda_launch.forward(functools.partial(nvrtc.launch, u), u, *others)


def _nvrtc_backward(grad_h, grad_c_last, u, *others):
    return cuda_launch.backward(functools.partial(nvrtc.launch, u), grad_h, grad_c_last, u, *others)


def _fallback_forward(u, *others):
    warn_of_reference(u.device.type)
    return reference.recurrence_forward(u, *others)


def _recurrence(u, x, weight_c, bias, c0, dropout_mask, padding_mask, bidirectional):
    return sru_recurrence(
        u, x, weight_c, bias, c0, dropout_mask=dropout_mask, padding_mask=padding_mask, bidirectional=bidirectional
    )


for _name in OPERATOR_NAMES:
    _define(_name)
# `sru_recurrence` as TorchScript can call it.
_LIBRARY = torch.library.Library("fairseq_srupp", "FRAGMENT")
_LIBRARY.define("recurrence" + _SCRIPT_SCHEMA)
_LIBRARY.impl("recurrence", _recurrence, "CompositeImplicitAutograd")
for _name, _forward in (("reference", reference.recurrence_forward), (FALLBACK, _fallback_forward)):
    torch.library.impl(f"fairseq_srupp::{_name}_forward", "default", _forward)
    torch.library.impl(f"fairseq_srupp::{_name}_backward", "default", reference.recurrence_backward)
torch.library.impl("fairseq_srupp::nvrtc_forward", "cuda", _nvrtc_forward)
torch.library.impl("fairseq_srupp::nvrtc_backward", "cuda", _nvrtc_backward)
