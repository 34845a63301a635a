"""Inputs of the recurrence for its tests."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from fairseq_srupp.ops import sru_recurrence
from fairseq_srupp.ops.reference import state_dtype

NAMES = ("h", "c_last", "grad_u", "grad_x", "grad_weight_c", "grad_bias", "grad_c0")


def pytest_collection_modifyitems(items) -> None:
    """Where the kernels were left out on purpose, their tests are skipped. Where they miss, they fail."""
    if os.environ.get("FAIRSEQ_SRUPP_NO_EXTENSION") != "1":
        return
    for item in items:
        if item.get_closest_marker("cpu_kernels") or "[cpu" in item.name:
            item.add_marker(pytest.mark.skip(reason="FAIRSEQ_SRUPP_NO_EXTENSION=1 leaves the kernels out"))


@pytest.fixture
def make_inputs():
    """make_inputs(L, B, D, dtype) -> [u, x, weight_c, bias, c0] with gradients, c0 as wide as the state.

    weight_c is within (-1, 1), as models begin: channels with larger weights can hold one of two states for long, and then
    they multiply rounding errors by thousands, so that fp32 says nothing about a kernel.
    """

    def make(length: int, batch: int, channels: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        generator = torch.Generator().manual_seed(length + batch + channels)
        shapes = (
            (length, batch, 3, channels),
            (length, batch, channels),
            (2, channels),
            (2, channels),
            (batch, channels),
        )
        tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
        tensors[2].clamp_(-1, 1)
        dtypes = [dtype] * 4 + [state_dtype(dtype)]
        return [tensor.to(kind).requires_grad_() for tensor, kind in zip(tensors, dtypes)]

    return make


@pytest.fixture
def make_options():
    """make_options(L, B, D) -> dropout_mask with zeros, padding_mask with holes, a tail and a whole row."""

    def make(length: int, batch: int, channels: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(length * batch * channels)
        mask = (torch.rand(batch, channels, generator=generator) > 0.3) / 0.7
        padding = torch.rand(length, batch, generator=generator) < 0.2
        padding[length - length // 4 :, 0] = True
        if batch > 2:
            padding[:, 2] = True
        return {"dropout_mask": mask, "padding_mask": padding}

    return make


@pytest.fixture
def results():
    """results(inputs, **options) -> outputs and gradients by name, for a fixed gradient of h and c_last."""

    def run(inputs: list[Tensor], **options) -> dict[str, Tensor]:
        h, c_last = sru_recurrence(*inputs, **options)
        generator = torch.Generator().manual_seed(7)
        grads = [torch.randn(out.shape, generator=generator, dtype=torch.float64).bfloat16() for out in (h, c_last)]
        gradients = torch.autograd.grad([h, c_last], inputs, [grads[0].to(h), grads[1].to(c_last)])
        return dict(zip(NAMES, (h.detach(), c_last.detach(), *gradients)))

    return run


@pytest.fixture
def exact(results):
    """exact(inputs, **options) -> what `results` gives with the reference in fp64, from the same values."""

    def run(inputs: list[Tensor], **options) -> dict[str, Tensor]:
        doubles = [tensor.detach().double().requires_grad_() for tensor in inputs]
        return results(doubles, backend="reference", **options)

    return run


@pytest.fixture
def assert_near():
    """assert_near(got, expected, tolerance): by name, relative to the largest value of each tensor."""

    def check(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
        assert got.keys() == expected.keys()
        for name, value in got.items():
            assert value.shape == expected[name].shape, name
            if value.numel() == 0:
                continue
            error = (value.double() - expected[name]).abs().max() / expected[name].abs().max().clamp(min=1e-6)
            assert error <= tolerance, f"{name} is off by {error:.2e}"

    return check
