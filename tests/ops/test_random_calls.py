"""Random calls, with infinities and NaN among their inputs."""

import functools
import itertools

import numpy as np
import op_calls
import pytest
import torch

from fairseq_srupp.ops import sru_recurrence

pytestmark = pytest.mark.cpu_kernels
CALLS, DERIVATIVES, AT_ONCE = 400, 100, 50  # as tests/README.md says


@pytest.mark.parametrize("first", range(0, CALLS, AT_ONCE))
def test_kernels(first):
    """Against the reference in the same dtype and in fp64; what infinities, NaN and what is in the padding reach."""
    run = functools.partial(op_calls.by_autograd, backend="cpu")
    for seed in range(first, first + AT_ONCE):
        call = op_calls.random_call(seed)
        assert op_calls.faults(call, run) == [], f"call {seed}: {call.description}"


def test_a_gradient_that_nearly_vanishes():
    """In fp16, of terms 300 times as large: it is off by what their rounding leaves, in the reference too."""
    call = op_calls.random_call(244103934)
    assert op_calls.faults(call, functools.partial(op_calls.by_autograd, backend="cpu")) == []


@pytest.mark.parametrize("first", range(0, DERIVATIVES, AT_ONCE))
def test_derivatives(first):
    """Forward mode, torch.func.vjp and autograd."""
    for seed in range(first, first + AT_ONCE):
        assert op_calls.derivative_faults(seed) == [], f"call {seed}: {op_calls.random_call(seed).description}"


def test_the_calls_are_of_all_kinds():
    calls = [op_calls.random_call(seed) for seed in range(CALLS)]
    of_all = lambda what: sum(bool(what(call)) for call in calls)
    for name in op_calls.INPUTS:
        assert of_all(lambda call: name in call.special and call.special[name].any()) > 20, name
        assert of_all(lambda call: call.inputs[name] is not None and not call.inputs[name].is_contiguous()) > 20, name
    for name in ("bidirectional", "dropout_mask", "padding_mask"):
        assert of_all(lambda call: name in call.options) > 50, name
    for dtype in op_calls.DTYPES:
        assert of_all(lambda call: call.inputs["u"].dtype == dtype) > 50, dtype


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_every_combination_of_infinities_in_a_step(dtype, backend):
    """Against the formulas in numpy: where NaN stands, where infinity of which sign, and what is finite."""
    some, infinity = (0.5, 0.0, np.inf, -np.inf, np.nan), (0.5, np.inf)
    grid = np.array(list(itertools.product(*[some] * 7, infinity, (0.0, 1.5)))).T
    candidate, forget, reset, x, v_f, v_r, c0, b, m = grid
    with np.errstate(all="ignore"):
        sigmoid = lambda z: 1 / (1 + np.exp(-z))
        f, r = sigmoid(forget + b + v_f * c0), sigmoid(reset + b + v_r * c0)
        c = f * c0 + (1 - f) * candidate
        h = x + m * r * (c - x)
    tensor = lambda *rows: torch.tensor(np.stack(rows), dtype=dtype)
    state = torch.float64 if dtype == torch.float64 else torch.float32
    found = sru_recurrence(
        tensor(candidate, forget, reset)[None, None],
        tensor(x)[None],
        tensor(v_f, v_r),
        tensor(b, b),
        tensor(c0).to(state),
        dropout_mask=tensor(m),
        backend=backend,
    )
    for got, expected in zip(found, (h, c)):
        tolerance = 4 * torch.finfo(got.dtype).eps
        expected = torch.tensor(expected).view(got.shape)
        torch.testing.assert_close(got.double(), expected, rtol=tolerance, atol=tolerance, equal_nan=True)
