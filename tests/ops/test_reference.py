"""The reference against the equations written out for single numbers."""

import itertools
import math

import pytest
import torch

from fairseq_srupp.ops import sru_recurrence


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def by_hand(u, x, weight_c, bias, c0, mask, padding, backwards: bool, row: int, channel: int):
    """h of all steps and c_last for one channel of one row (paper, section 2, equations 2 to 5)."""
    (v_f, v_r), (b_f, b_r) = weight_c[:, channel].tolist(), bias[:, channel].tolist()
    c, h = c0[row, channel].item(), {}
    m = 1.0 if mask is None else mask[row, channel].item()
    steps = range(len(x))
    for t in reversed(steps) if backwards else steps:
        if padding is not None and padding[t, row]:
            h[t] = 0.0
            continue
        candidate, forget, reset = u[t, row, :, channel].tolist()
        f = sigmoid(forget + v_f * c + b_f)
        r = sigmoid(reset + v_r * c + b_r)
        c = f * c + (1 - f) * candidate
        h[t] = x[t, row, channel].item() + m * r * (c - x[t, row, channel].item())
    return [h[t] for t in steps], c


@pytest.mark.parametrize("masked, padded, bidirectional", list(itertools.product([False, True], repeat=3)))
def test_equations(make_inputs, make_options, masked, padded, bidirectional):
    length, batch, channels = 6, 3, 4
    u, x, weight_c, bias, c0 = (t.detach() for t in make_inputs(length, batch, channels, torch.float64))
    options = make_options(length, batch, channels)
    mask = options["dropout_mask"] if masked else None
    padding = options["padding_mask"] if padded else None
    h, c_last = sru_recurrence(
        u,
        x,
        weight_c,
        bias,
        c0,
        dropout_mask=mask,
        padding_mask=padding,
        bidirectional=bidirectional,
        backend="reference",
    )
    for row, channel in itertools.product(range(batch), range(channels)):
        backwards = bidirectional and channel >= channels // 2
        h_expected, c_expected = by_hand(u, x, weight_c, bias, c0, mask, padding, backwards, row, channel)
        torch.testing.assert_close(h[:, row, channel], torch.tensor(h_expected, dtype=torch.float64))
        assert c_last[row, channel].item() == pytest.approx(c_expected, rel=1e-12)


def test_no_state_is_a_state_of_zeros(make_inputs):
    u, x, weight_c, bias, c0 = make_inputs(5, 2, 3)
    with_zeros = sru_recurrence(u, x, weight_c, bias, torch.zeros_like(c0), backend="reference")
    torch.testing.assert_close(sru_recurrence(u, x, weight_c, bias, backend="reference"), with_zeros)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_halves_of_a_bidirectional_call(make_inputs, make_options, backend):
    """Each half is a call of its own, the second on the sequence turned round."""
    inputs = [tensor.detach() for tensor in make_inputs(9, 3, 10)]
    options = make_options(9, 3, 10)
    h, c_last = sru_recurrence(*inputs, **options, bidirectional=True, backend=backend)
    mask, padding = options["dropout_mask"], options["padding_mask"]
    forwards = [tensor[..., :5] for tensor in inputs]
    backwards = [tensor[..., 5:].flip(0) if tensor.shape[0] == 9 else tensor[..., 5:] for tensor in inputs]
    h_forwards, c_forwards = sru_recurrence(*forwards, dropout_mask=mask[:, :5], padding_mask=padding, backend=backend)
    h_backwards, c_backwards = sru_recurrence(*backwards, dropout_mask=mask[:, 5:], padding_mask=padding.flip(0), backend=backend)
    torch.testing.assert_close(h, torch.cat([h_forwards, h_backwards.flip(0)], dim=-1))
    torch.testing.assert_close(c_last, torch.cat([c_forwards, c_backwards], dim=-1))
