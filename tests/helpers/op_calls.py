"""Random calls of the recurrence, and what has to hold for each of them."""

import functools
import itertools
import random
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from fairseq_srupp.ops import reference, sru_recurrence
from fairseq_srupp.ops.reference import state_dtype

INPUTS = ("u", "x", "weight_c", "bias", "c0")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Of the largest value of each tensor, after the rounding of inputs.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}
Pass = Callable[..., Tuple[Tensor, ...]]
"""One of the operators `*_forward` and `*_backward` of ops/recurrence.py."""


class Call(NamedTuple):
    """A call and the gradients of its results."""

    inputs: Dict[str, Optional[Tensor]]
    options: Dict[str, Any]
    grad_h: Optional[Tensor]
    grad_c_last: Optional[Tensor]
    special: Dict[str, Tensor]  # for each input, where an infinity or NaN stands in it
    shape: Tuple[int, int, int]  # L, B, D

    @property
    def description(self) -> str:
        kinds = {name: str(t.dtype) for name, t in self.inputs.items() if t is not None}
        return f"shape {self.shape}, {kinds}, options {list(self.options)}, special {list(self.special)}"


def random_call(seed: int) -> Call:
    """Any shape, dtypes, strides and options; in a third of the calls infinities or NaN in some inputs."""
    choice, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.double)
    uniform = lambda *shape: torch.rand(*shape, generator=generator)
    length, batch = choice.choice([0, 1, 1, 2, 3, 7, 20]), choice.choice([0, 1, 2, 2, 3, 5])
    channels = choice.choice([0, 1, 2, 4, 34, 64, 66, 130])
    dtype = choice.choice(DTYPES)
    state = state_dtype(dtype)
    parameter = choice.choice([dtype, state])
    bidirectional = channels % 2 == 0 and choice.random() < 0.3
    u = normal(length, batch, 3, channels)
    u[:, :, 1:] *= choice.choice([1, 1, 40])  # wide gates
    inputs = {
        "u": u.to(dtype),
        "x": normal(length, batch, channels).to(dtype),
        # larger weights let a channel hold one of two states, and then rounding chooses between them
        "weight_c": normal(2, channels).clamp(-1, 1).to(parameter),
        "bias": normal(2, channels).to(parameter),
        "c0": normal(batch, channels).to(state) if choice.random() < 0.7 else None,
    }
    special = {}
    if choice.random() < 0.33:
        for name, tensor in inputs.items():
            if tensor is not None and choice.random() < 0.4:
                value = choice.choice([float("inf"), -float("inf"), float("nan")])
                where = uniform(*tensor.shape) < choice.choice([0.02, 0.3])
                special[name] = where
                tensor[where] = value
    options: Dict[str, Any] = {"bidirectional": True} if bidirectional else {}
    if choice.random() < 0.5:
        options["dropout_mask"] = ((uniform(batch, channels) > 0.3) / 0.7).to(choice.choice(DTYPES))
    if choice.random() < 0.5:
        options["padding_mask"] = uniform(length, batch) < choice.choice([0.2, 0.8])
        if batch and choice.random() < 0.3:
            options["padding_mask"][:, 0] = True
    grads = [normal(length, batch, channels).to(dtype), normal(batch, channels).to(state)]
    if choice.random() < 0.2:
        grads[choice.randrange(2)] = None
    odd = lambda tensor: None if tensor is None else _restrided(tensor, choice)
    inputs = {name: odd(tensor) for name, tensor in inputs.items()}
    options = {name: odd(value) if isinstance(value, Tensor) else value for name, value in options.items()}
    return Call(inputs, options, *map(odd, grads), special, (length, batch, channels))


def _restrided(tensor: Tensor, choice: random.Random) -> Tensor:
    """The same values: contiguous, every second of a larger tensor, transposed, or not at the start of its storage."""
    kind = choice.randrange(5)
    if kind == 0:
        wide = torch.stack([tensor, tensor], -1).flatten(-2)
        return wide[..., ::2]
    if kind == 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if kind == 2:
        offset = choice.randrange(1, 4)
        return torch.cat([tensor.new_zeros(offset), tensor.flatten()])[offset:].view(tensor.shape)
    return tensor


def by_autograd(call: Call, **options) -> Dict[str, Tensor]:
    """Results and gradients by name, with the public function."""
    inputs = {name: tensor.detach().requires_grad_() for name, tensor in call.inputs.items() if tensor is not None}
    outputs = sru_recurrence(**inputs, **call.options, **options)
    given = [(o, grad) for o, grad in zip(outputs, (call.grad_h, call.grad_c_last)) if grad is not None]
    gradients = torch.autograd.grad([o for o, _ in given], list(inputs.values()), [grad for _, grad in given])
    named = {"grad_" + name: gradient for name, gradient in zip(inputs, gradients)}
    return {"h": outputs[0].detach(), "c_last": outputs[1].detach(), **named}


def by_operators(call: Call, forward: Pass, backward: Pass) -> Dict[str, Tensor]:
    """The same with two operators."""
    inputs, state = dict(call.inputs), state_dtype(call.inputs["u"].dtype)
    if inputs["weight_c"].dtype != inputs["u"].dtype:
        inputs |= {name: inputs[name].to(state) for name in ("weight_c", "bias")}
    mask = call.options.get("dropout_mask")
    arguments = (*inputs.values(), None if mask is None else mask.to(state), call.options.get("padding_mask"))
    bidirectional = call.options.get("bidirectional", False)
    h, c_last, c = forward(*arguments, bidirectional, True)
    gradients = backward(call.grad_h, call.grad_c_last, *arguments, c, bidirectional)
    named = {"grad_" + name: grad for name, grad in zip(INPUTS, gradients) if inputs[name] is not None}
    return {"h": h, "c_last": c_last, **named}


def by_reference(call: Call) -> Dict[str, Tensor]:
    return by_operators(call, reference.recurrence_forward, reference.recurrence_backward)


def in_doubles(call: Call) -> Call:
    wide = lambda tensor: tensor.double() if isinstance(tensor, Tensor) and tensor.is_floating_point() else tensor
    inputs, options = ({name: wide(value) for name, value in each.items()} for each in call[:2])
    return call._replace(inputs=inputs, options=options, grad_h=wide(call.grad_h), grad_c_last=wide(call.grad_c_last))


def differences(found: Dict[str, Tensor], expected: Dict[str, Tensor], dtype: torch.dtype, terms: float = 0.0) -> List[str]:
    """Where NaN, infinities and their signs are not the same, or finite values are not near.

    A small gradient may be what is left of larger `terms` that have been rounded, and is then no nearer than they are.
    """
    wrong = []
    for name, value in found.items():
        value, wanted = value.double(), expected[name].double()
        if value.shape != wanted.shape:
            wrong.append(f"{name} has shape {tuple(value.shape)}, expected {tuple(wanted.shape)}")
            continue
        finite = wanted.isfinite()
        if not torch.equal(_kinds(value), _kinds(wanted)):
            wrong.append(f"{name} is infinite or NaN elsewhere")
            continue
        value, wanted = value[finite], wanted[finite]
        if value.numel():
            least = max(1e-2, terms if name.startswith("grad_") else 0.0)
            error = ((value - wanted).abs().max() / wanted.abs().max().clamp(min=least)).item()
            if not error <= TOLERANCE[dtype]:
                wrong.append(f"{name} is off by {error:.1e}")
    return wrong


def _kinds(tensor: Tensor) -> Tensor:
    """0 where it is finite, 1 and -1 where infinite, 2 where NaN."""
    return torch.where(tensor.isfinite(), 0.0, tensor).nan_to_num(nan=2.0, posinf=1.0, neginf=-1.0)


def same_bits(found: Dict[str, Tensor], expected: Dict[str, Tensor], what: str) -> List[str]:
    same = functools.partial(torch.allclose, rtol=0, atol=0, equal_nan=True)
    return [f"{name}: {what}" for name, value in found.items() if not same(value, expected[name])]


def faults(call: Call, found: Callable[[Call], Dict[str, Tensor]]) -> List[str]:
    """What does not hold for the kernels that `found` calls."""
    dtype, results = call.inputs["u"].dtype, found(call)
    wrong = differences(results, by_reference(call), dtype)
    if not call.special:
        grads = [grad.abs().max().item() for grad in (call.grad_h, call.grad_c_last) if grad is not None and grad.numel()]
        terms = max(grads, default=0.0) / 20
        wrong += differences(results, by_reference(in_doubles(call)), dtype, terms)
    else:
        wrong += _spread(call, results, found(_without_special(call)))
    padding = call.options.get("padding_mask")
    if padding is not None:
        wrong += same_bits(found(_poisoned(call, padding)), results, "what stands in the padding shows")
    return wrong


def _without_special(call: Call) -> Call:
    replaced = {name: call.inputs[name].masked_fill(where, 0.5) for name, where in call.special.items()}
    return call._replace(inputs={**call.inputs, **replaced})


def _poisoned(call: Call, padding: Tensor) -> Call:
    nan = float("nan")
    inputs = dict(call.inputs)
    inputs["u"] = inputs["u"].masked_fill(padding[:, :, None, None], nan)
    inputs["x"] = inputs["x"].masked_fill(padding[:, :, None], nan)
    grad_h = call.grad_h if call.grad_h is None else call.grad_h.masked_fill(padding[:, :, None], nan)
    return call._replace(inputs=inputs, grad_h=grad_h)


def _spread(call: Call, results: Dict[str, Tensor], clean: Dict[str, Tensor]) -> List[str]:
    """Where an infinity or NaN has reached another row or channel, or an output of an earlier step."""
    length, batch, channels = call.shape
    rows = torch.zeros(length + 1, batch, channels, dtype=torch.bool)  # step 0 is that of c0 and of the parameters
    for name, where in call.special.items():
        if name == "u":
            rows[1:] |= where.any(2)
        elif name == "x":
            rows[1:] |= where
        else:
            rows[0] |= where if name == "c0" else where.any(0)
    ever = rows.any(0)
    steps = rows[1:].clone()
    if call.options.get("bidirectional"):
        steps[..., channels // 2 :] = steps[..., channels // 2 :].flip(0)
    reached = torch.cat([rows[:1], steps]).cummax(0).values[1:] if steps.numel() else steps
    if call.options.get("bidirectional"):
        reached[..., channels // 2 :] = reached[..., channels // 2 :].flip(0)
    touched = {"h": reached, "c_last": ever, "grad_c0": ever, "grad_x": ever.expand(length, -1, -1)}
    touched["grad_u"] = ever[None, :, None].expand(length, -1, 3, -1)
    touched["grad_weight_c"] = touched["grad_bias"] = ever.any(0).expand(2, -1)
    untouched = lambda named: {name: value.masked_fill(touched[name], 0) for name, value in named.items()}
    return same_bits(untouched(results), untouched(clean), "an infinity or NaN reaches others")


def derivative_faults(seed: int) -> List[str]:
    """Forward mode, torch.func.vjp and autograd of a random call in fp64 against each other.

    Forward mode differentiates the reference, the others run the kernels: <g, J t> is <J^T g, t>.
    """
    call = random_call(seed)
    call = in_doubles(_without_special(call) if call.special else call)
    generator = torch.Generator().manual_seed(seed)
    inputs = {name: tensor for name, tensor in call.inputs.items() if tensor is not None}
    tangents = tuple(torch.randn(t.shape, generator=generator, dtype=torch.double) for t in inputs.values())
    run = lambda *tensors: sru_recurrence(*tensors, **call.options)
    zeros = lambda grad, like: torch.zeros_like(like) if grad is None else grad
    outputs, pushed = torch.func.jvp(run, tuple(inputs.values()), tangents)
    grads = tuple(map(zeros, (call.grad_h, call.grad_c_last), outputs))
    pulled = torch.func.vjp(run, *inputs.values())[1](grads)
    by_name = by_autograd(call._replace(grad_h=grads[0], grad_c_last=grads[1]))
    wrong = same_bits(
        dict(zip(inputs, pulled)), {name: by_name["grad_" + name] for name in inputs}, "torch.func.vjp is not autograd"
    )
    pairs = list(zip(grads, pushed)), list(zip(pulled, tangents))
    left, right = (sum((a * b).sum().item() for a, b in side) for side in pairs)
    scale = sum((a * b).abs().sum().item() for a, b in itertools.chain(*pairs))
    if not abs(left - right) <= 1e-12 * max(1.0, scale):
        wrong.append(f"<g, J t> = {left}, <J^T g, t> = {right}")
    return wrong
