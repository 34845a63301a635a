"""FusedRAdam against torch.optim.RAdam, in half precision and on a GPU against it in double precision."""

import copy
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fairseq_srupp.optim import FusedRAdam
from fairseq_srupp.optim.fused_radam import step_scale

ROOT = Path(__file__).parents[2]
SIZES = [(1,), (7, 3), (257,), (16, 33), ()]


def weights(sizes=SIZES, dtype=torch.float, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(size, generator=generator).to(device, dtype)) for size in sizes]


def groups(params):
    return [{"params": params[:2]}, {"params": params[2:], "weight_decay": 0.02, "betas": (0.8, 0.98), "eps": 1e-4}]


def torchs(params, **options):
    return torch.optim.RAdam(params, decoupled_weight_decay=True, **options)


def train(optimizer, steps, seed=1, start=0, absent=lambda step, i: False):
    """Steps with random gradients of various sizes and a changing rate. `absent`: the weight has no gradient then."""
    generator = torch.Generator().manual_seed(seed)
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for step in range(start, start + steps):
        for i, param in enumerate(params):
            grad = torch.randn(param.shape, generator=generator, dtype=torch.double) * 10.0 ** (i - 2)
            param.grad = None if absent(step, i) else grad.to(param)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (step % 50 + 1) / 50
        optimizer.step()


def assert_near(found, expected, tolerance=1e-6):
    for ours, theirs in zip(found, expected):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance, check_dtype=False)


@pytest.fixture
def kernel_calls(monkeypatch):
    """The number of weights in each call of torch's kernel."""
    calls, kernel = [], torch._fused_adamw_

    def count(params, *args, **options):
        calls.append(len(params))
        return kernel(params, *args, **options)

    monkeypatch.setattr(torch, "_fused_adamw_", count)
    return calls


def test_a_thousand_steps_are_torchs(kernel_calls):
    ours, theirs = weights(), weights()
    train(FusedRAdam(groups(ours), weight_decay=0.1), 1000)
    train(torchs(groups(theirs), weight_decay=0.1), 1000)
    assert_near(ours, theirs)
    assert (ours[1] - weights()[1]).abs().min() > 1e-3
    assert kernel_calls == [2, 3] * 995  # one call a group; the first five steps are not rectified


def test_weights_without_gradients_stay_behind(kernel_calls):
    def absent(step, i):
        return i == 0 and step % 3 != 0 or i == 2 and step < 4 or i == 3

    ours, theirs = weights(), weights()
    optimizer, torchs_optimizer = FusedRAdam(groups(ours), weight_decay=0.1), torchs(groups(theirs), weight_decay=0.1)
    train(optimizer, 40, absent=absent)
    train(torchs_optimizer, 40, absent=absent)
    assert_near(ours, theirs)
    assert [optimizer.state[w]["step"].item() if w in optimizer.state else None for w in ours] == [14, 40, 36, None, 40]
    assert max(kernel_calls) == 1  # never two of different age in one call


def test_a_group_without_gradients_and_empty_weights():
    ours = weights([(3,), (0,), (0, 2)])
    before = ours[0].clone()
    optimizer = FusedRAdam([{"params": ours[:1]}, {"params": ours[1:]}], weight_decay=0.1)
    train(optimizer, 8, absent=lambda step, i: i == 0)
    assert torch.equal(ours[0], before) and ours[0] not in optimizer.state
    assert optimizer.state[ours[1]]["step"] == 8


def test_double_precision(kernel_calls):
    ours, theirs = weights(dtype=torch.double), weights(dtype=torch.double)
    train(FusedRAdam(groups(ours), weight_decay=0.1), 100)
    train(torchs(groups(theirs), weight_decay=0.1), 100)
    assert_near(ours, theirs, 1e-14)
    assert kernel_calls == [2, 3] * 95


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("steps", [0, 8])
def test_a_step_in_half_precision_is_exact_but_for_rounding(dtype, steps, kernel_calls):
    ours = weights(dtype=dtype)
    optimizer = FusedRAdam(ours, weight_decay=0.1)
    train(optimizer, steps)
    exact = [torch.nn.Parameter(weight.detach().double()) for weight in ours]
    in_double = torchs(exact, weight_decay=0.1)
    in_double.load_state_dict(optimizer.state_dict())
    for weight, other in zip(ours, exact):
        weight.grad = torch.full_like(weight, 0.3)
        other.grad = weight.grad.double()
    optimizer.step()
    in_double.step()
    for weight, other in zip(ours, exact):
        values = [weight, *optimizer.state[weight].values()], [other, *in_double.state[other].values()]
        for found, expected in zip(*values):
            torch.testing.assert_close(found.double(), expected.double(), rtol=torch.finfo(dtype).eps, atol=1e-7)
    assert kernel_calls == [5] * (4 if steps else 0)


def test_types_together(kernel_calls):
    ours, theirs = ([w for dtype in (torch.double, torch.float) for w in weights(dtype=dtype)] for _ in range(2))
    train(FusedRAdam(ours), 20)
    train(torchs(theirs), 20)
    assert_near(ours, theirs)
    assert kernel_calls == [5] * 30


@pytest.mark.parametrize("kind", ["transposed weight", "transposed gradient", "complex"])
def test_what_the_kernel_cannot_do_is_done(kind, kernel_calls):
    def transposed(tensor):
        return tensor.t().contiguous().t()

    def build():
        (weight,) = (param.detach() for param in weights([(6, 5)]))
        if kind == "complex":
            weight = torch.complex(weight, weight**2)
        return torch.nn.Parameter(transposed(weight) if kind == "transposed weight" else weight)

    ours, theirs = build(), build()
    optimizers = FusedRAdam([ours], weight_decay=0.1), torchs([theirs], weight_decay=0.1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(12):
        grad = torch.randn(6, 5, generator=generator, dtype=ours.dtype)
        for weight, optimizer in zip((ours, theirs), optimizers):
            weight.grad = transposed(grad) if kind == "transposed gradient" else grad.clone()
            optimizer.step()
    assert torch.equal(ours, theirs)
    assert not kernel_calls


def test_sparse_gradients_are_refused():
    (weight,) = weights([(4, 2)])
    weight.grad = torch.zeros(4, 2).to_sparse()
    with pytest.raises(RuntimeError, match="RAdam does not support sparse gradients"):
        FusedRAdam([weight]).step()


@pytest.mark.parametrize("first, second", [(torchs, FusedRAdam), (FusedRAdam, torchs), (FusedRAdam, FusedRAdam)])
@pytest.mark.parametrize("steps", [3, 9])
def test_states_are_torchs(first, second, steps, tmp_path):
    def resumed(optimizer, params, kind):
        torch.save(optimizer.state_dict(), tmp_path / "state.pt")
        params = [torch.nn.Parameter(param.detach().clone()) for param in params]
        optimizer = kind(groups(params), weight_decay=0.7)  # the saved one comes with the state
        optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        return optimizer, params

    whole, params = weights(), weights()
    train(torchs(groups(whole), weight_decay=0.1), steps)
    torchs_optimizer = torchs(groups(params), weight_decay=0.1)
    optimizer = first(groups(params), weight_decay=0.1)
    assert optimizer.state_dict()["param_groups"] == torchs_optimizer.state_dict()["param_groups"]
    train(optimizer, steps)
    optimizer, params = resumed(optimizer, params, second)
    train(optimizer, 9, seed=5, start=steps)

    optimizer = torchs(groups(expected := weights()), weight_decay=0.1)
    train(optimizer, steps)
    train(optimizer, 9, seed=5, start=steps)
    assert_near(params, expected)


@pytest.mark.parametrize("options", [{"weight_decay": 0.1}, {"maximize": True}], ids=["coupled decay", "maximize"])
def test_other_options_come_with_a_state(options):
    ours, theirs = weights(), weights()
    optimizer, torchs_optimizer = FusedRAdam(ours), torch.optim.RAdam(theirs, **options)
    optimizer.load_state_dict(torchs_optimizer.state_dict())
    train(optimizer, 10)
    train(torchs_optimizer, 10)
    assert_near(ours, theirs)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_copies_go_on_by_themselves(copied):
    params = weights()
    optimizer = FusedRAdam(params, weight_decay=0.1)
    train(optimizer, 7)
    others, other = copied((params, optimizer))
    train(optimizer, 5, seed=3)
    assert not torch.equal(others[1], params[1])
    train(other, 5, seed=3)
    assert all(torch.equal(one, two) for one, two in zip(params, others))


def test_a_rate_of_zero_and_a_rate_in_a_tensor():
    (weight,) = weights([(5,)])
    optimizer = FusedRAdam([weight], lr=torch.tensor(0.0), weight_decay=0.1)
    before = weight.clone()
    for _ in range(8):
        weight.grad = torch.ones(5)
        optimizer.step()
    assert torch.equal(weight, before)


def test_the_closure_is_evaluated_with_gradients():
    (weight,) = weights([(5,)])
    optimizer = FusedRAdam([weight])

    def closure():
        loss = weight.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(weights([(5,)])[0].square().sum().item())
    assert not torch.equal(weight, weights([(5,)])[0])


def test_fairseq_is_not_needed():
    code = "import sys; sys.modules['fairseq'] = None; from fairseq_srupp.optim import FusedRAdam"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("dtype", [torch.float, torch.double], ids=str)
def test_equal_gradients_move_a_weight_by_the_rectification(dtype):
    """Averages of ones made with betas rounded in any way are m = 1 - beta1^t and v = 1 - beta2^t."""
    beta1, beta2 = torch.tensor([0.9, 0.999], dtype=dtype).double().tolist()
    rho_inf = 2 / (1 - 0.999) - 1
    assert [step_scale(step, 0.9, 0.999, dtype) for step in range(1, 6)] == [None] * 5
    for step in (6, 7, 100, 5000, 100_000):
        rho = rho_inf - 2 * step * 0.999**step / (1 - 0.999**step)
        rectification = ((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)) ** 0.5
        moved = step_scale(step, 0.9, 0.999, dtype) * (1 - beta1**step) / (1 - beta2**step) ** 0.5
        assert moved == pytest.approx(rectification, rel=1e-12)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype, tolerance", [(torch.double, 1e-13), (torch.float, 6e-8)], ids=str)
def test_on_a_gpu(dtype, tolerance, kernel_calls):
    """From zero and without decay, so that the rounding of weights does not hide errors of the steps."""
    ours = [torch.nn.Parameter(torch.zeros(1000, dtype=dtype, device="cuda"))]
    exact = [torch.nn.Parameter(torch.zeros(1000, dtype=torch.double))]
    train(FusedRAdam(ours), 1000)
    train(torchs(exact), 1000)
    assert_near([ours[0].cpu()], exact, tolerance)
    assert kernel_calls == [1] * 995


@pytest.mark.gpu
def test_steps_do_not_wait_for_the_gpu(kernel_calls):
    ours, expected = weights(device="cuda") + weights(), weights() + weights()
    optimizer = FusedRAdam(groups(ours), weight_decay=0.1)
    train(optimizer, 4)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(4):
            optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert kernel_calls == [2, 3, 5] * 3  # one call a group and device; the first step here is the fifth
    other = torchs(groups(expected), weight_decay=0.1)
    train(other, 4)
    for _ in range(4):
        other.step()
    assert_near([weight.cpu() for weight in ours], expected)
