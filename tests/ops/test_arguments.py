"""Errors name the argument and say what was expected."""

import pytest
import torch

from fairseq_srupp.ops import sru_recurrence

L, B, D = 4, 2, 6


def call(**changes):
    arguments = {
        "u": torch.zeros(L, B, 3, D),
        "x": torch.zeros(L, B, D),
        "weight_c": torch.zeros(2, D),
        "bias": torch.zeros(2, D),
        "c0": torch.zeros(B, D),
        "dropout_mask": torch.ones(B, D),
        "padding_mask": torch.zeros(L, B, dtype=torch.bool),
    }
    return sru_recurrence(**(arguments | changes))


def test_the_call_itself_is_fine():
    call()


@pytest.mark.parametrize(
    "name, wrong, expected",
    [
        ("u", torch.zeros(L, B, D), r"u has shape \(4, 2, 6\), expected \(L, B, 3, D\)"),
        ("u", torch.zeros(L, B, 4, D), r"u has shape \(4, 2, 4, 6\), expected \(L, B, 3, D\)"),
        ("x", torch.zeros(L, B, D + 1), r"x has shape \(4, 2, 7\), expected \(L, B, D\) = \(4, 2, 6\)"),
        ("x", torch.zeros(B, L, D), r"x has shape \(2, 4, 6\), expected \(L, B, D\) = \(4, 2, 6\)"),
        ("weight_c", torch.zeros(2 * D), r"weight_c has shape \(12,\), expected \(2, D\) = \(2, 6\)"),
        ("bias", torch.zeros(D, 2), r"bias has shape \(6, 2\), expected \(2, D\) = \(2, 6\)"),
        ("c0", torch.zeros(1, D), r"c0 has shape \(1, 6\), expected \(B, D\) = \(2, 6\)"),
        (
            "dropout_mask",
            torch.ones(L, B, D),
            r"dropout_mask has shape \(4, 2, 6\), expected \(B, D\) = \(2, 6\)",
        ),
        (
            "padding_mask",
            torch.zeros(B, L, dtype=torch.bool),
            r"padding_mask has shape \(2, 4\), expected \(L, B\)",
        ),
    ],
)
def test_shapes(name, wrong, expected):
    with pytest.raises(ValueError, match=f"sru_recurrence: {expected}"):
        call(**{name: wrong})


@pytest.mark.parametrize(
    "name, wrong, expected",
    [
        (
            "u",
            torch.zeros(L, B, 3, D, dtype=torch.int32),
            "u has dtype torch.int32, expected one of torch.float32",
        ),
        (
            "x",
            torch.zeros(L, B, D).double(),
            "x has dtype torch.float64, expected torch.float32 for u of dtype",
        ),
        (
            "weight_c",
            torch.zeros(2, D).bfloat16(),
            "weight_c has dtype torch.bfloat16, expected torch.float32",
        ),
        ("bias", torch.zeros(2, D).double(), "bias has dtype torch.float64, expected torch.float32"),
        ("c0", torch.zeros(B, D).half(), "c0 has dtype torch.float16, expected torch.float32"),
        (
            "dropout_mask",
            torch.ones(B, D).bool(),
            "dropout_mask has dtype torch.bool, expected torch.float32 or",
        ),
        ("padding_mask", torch.zeros(L, B), "padding_mask has dtype torch.float32, expected torch.bool"),
    ],
)
def test_dtypes(name, wrong, expected):
    with pytest.raises(TypeError, match=f"sru_recurrence: {expected}"):
        call(**{name: wrong})


def test_dtypes_beside_half_precision():
    half = {"u": torch.zeros(L, B, 3, D).bfloat16(), "x": torch.zeros(L, B, D).bfloat16()}
    call(**half, bias=torch.zeros(2, D).bfloat16())
    with pytest.raises(TypeError, match="c0 has dtype torch.bfloat16, expected torch.float32"):
        call(**half, c0=torch.zeros(B, D).bfloat16())
    with pytest.raises(TypeError, match="weight_c has dtype torch.float16, expected torch.bfloat16 or torch.float32"):
        call(**half, weight_c=torch.zeros(2, D).half())


@pytest.mark.parametrize("name", ["x", "weight_c", "bias", "c0", "dropout_mask", "padding_mask"])
def test_devices(name):
    dtype, shape = {"padding_mask": (torch.bool, (L, B))}.get(name, (torch.float32, None))
    shape = shape or {"x": (L, B, D), "c0": (B, D), "dropout_mask": (B, D)}.get(name, (2, D))
    with pytest.raises(ValueError, match=f"{name} is on meta, expected cpu, the device of u"):
        call(**{name: torch.zeros(shape, dtype=dtype, device="meta")})


def test_odd_channels_in_two_directions():
    with pytest.raises(ValueError, match="D = 3 channels, expected an even D if bidirectional"):
        sru_recurrence(
            torch.zeros(2, 1, 3, 3),
            torch.zeros(2, 1, 3),
            torch.zeros(2, 3),
            torch.zeros(2, 3),
            bidirectional=True,
        )


def test_dropout_mask_with_a_gradient():
    with pytest.raises(ValueError, match="dropout_mask requires a gradient"):
        call(dropout_mask=torch.ones(B, D, requires_grad=True))


def test_unknown_backend():
    with pytest.raises(ValueError, match="backend is 'fast', expected None or one of cpu, cuda, nvrtc, reference"):
        call(backend="fast")


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("wrong", [{"x": (L, B, D + 1)}, {"c0": (D,)}, {"dropout_mask": (B + 1, D)}])
def test_the_kernel_itself_reads_nothing_outside(wrong):
    """Whoever calls the operator directly gets an error too, instead of memory that is not his."""
    shapes = {
        "u": (L, B, 3, D),
        "x": (L, B, D),
        "weight_c": (2, D),
        "bias": (2, D),
        "c0": (B, D),
        "dropout_mask": (B, D),
    }
    tensors = [torch.zeros(wrong.get(name, shape)) for name, shape in shapes.items()]
    with pytest.raises(RuntimeError, match=f"{next(iter(wrong))} does not have the shape"):
        torch.ops.fairseq_srupp.cpu_forward(*tensors, None, False, True)
