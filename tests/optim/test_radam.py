"""--optimizer radam against the formulas written out, number by number."""

import importlib.util
import math

import pytest
import torch
from fairseq import optim, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim import OPTIMIZER_REGISTRY
from fairseq.optim.lr_scheduler import build_lr_scheduler
from omegaconf import OmegaConf

from fairseq_srupp.optim import radam

TRAINING = ["data", "--task", "language_modeling", "--arch", "transformer_lm", "--optimizer", "radam"]


def build(params, betas="(0.9, 0.999)", eps=1e-8, weight_decay=0.0, lr=0.1):
    cfg = {"_name": "radam", "adam_betas": betas, "adam_eps": eps, "weight_decay": weight_decay, "lr": [lr]}
    return optim.build_optimizer(OmegaConf.create(cfg), params)


def by_hand(weight, gradients, rates, beta1, beta2, eps, weight_decay):
    """One weight after each step: Liu et al. (2020), algorithm 2, with their code's threshold and place of epsilon;
    the decay of Loshchilov and Hutter (2019), in proportion to the rate alone."""
    m = v = 0.0
    rho_inf = 2 / (1 - beta2) - 1
    trace, rectified = [], []
    for t, (gradient, rate) in enumerate(zip(gradients, rates), start=1):
        m = beta1 * m + (1 - beta1) * gradient
        v = beta2 * v + (1 - beta2) * gradient**2
        weight -= rate * weight_decay * weight
        m_hat = m / (1 - beta1**t)
        rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
            weight -= rate * m_hat * r * math.sqrt(1 - beta2**t) / (math.sqrt(v) + eps)
        else:
            weight -= rate * m_hat
        trace.append(weight)
        rectified.append(rho > 5)
    return trace, rectified


@pytest.mark.parametrize(
    "betas, eps, weight_decay, first_rectified",
    [
        ("(0.9, 0.999)", 1e-8, 0.0, 6),
        ("(0.9, 0.999)", 1e-8, 0.1, 6),
        ("(0.8, 0.9)", 1e-2, 0.3, 6),
        ("(0, 0.7)", 1e-8, 0.1, 10),
        ("(0.5, 0.6)", 1e-8, 0.1, None),  # the variance of such short averages is never tractable
    ],
)
def test_steps_follow_the_formulas(betas, eps, weight_decay, first_rectified):
    generator = torch.Generator().manual_seed(1)
    steps, sizes = 14, [(3,), (2, 2)]
    start = [torch.randn(size, generator=generator, dtype=torch.double) for size in sizes]
    gradients = [[torch.randn(size, generator=generator, dtype=torch.double) for size in sizes] for _ in range(steps)]
    rates = [0.05 * (t % 4 + 1) for t in range(steps)]
    params = [torch.nn.Parameter(weight.clone()) for weight in start]
    optimizer = build(params, betas, eps, weight_decay)
    trace = []
    for gradients_now, rate in zip(gradients, rates):
        for param, gradient in zip(params, gradients_now):
            param.grad = gradient.clone()
        optimizer.set_lr(rate)  # as fairseq's schedulers do
        optimizer.step()
        trace.append([param.detach().clone() for param in params])
    beta1, beta2 = eval(betas)
    for i in range(len(sizes)):
        for place in range(start[i].numel()):
            expected, rectified = by_hand(
                start[i].flatten()[place].item(),
                [now[i].flatten()[place].item() for now in gradients],
                rates,
                beta1,
                beta2,
                eps,
                weight_decay,
            )
            found = torch.stack([now[i].flatten()[place] for now in trace])
            torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.double), rtol=1e-12, atol=1e-14)
    assert (rectified.index(True) + 1 if any(rectified) else None) == first_rectified


def test_options_are_named_as_those_of_adam():
    words = [*TRAINING, "--adam-betas", "(0.8, 0.95)", "--adam-eps", "1e-6", "--weight-decay", "0.1", "--lr", "0.02"]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    optimizer = optim.build_optimizer(cfg.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    (group,) = optimizer.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"], group["lr"]) == ((0.8, 0.95), 1e-6, 0.1, 0.02)
    assert group["decoupled_weight_decay"]


def test_defaults():
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), TRAINING))
    (group,) = optim.build_optimizer(cfg.optimizer, [torch.nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 0.0)


@pytest.mark.parametrize("betas", ["0.9", "(0.9, 1.0)", "(0.9, 'x')", "nonsense", "(0.9, 0.99, 0.999)"])
def test_bad_betas_are_one_line(betas):
    with pytest.raises(SystemExit, match="--adam-betas.*two numbers"):
        build([torch.nn.Parameter(torch.zeros(1))], betas=betas)


def test_a_scheduler_sets_the_rate_of_every_group():
    words = [*TRAINING, "--lr", "0.4", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "4"]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    optimizer = optim.build_optimizer(cfg.optimizer, [torch.nn.Parameter(torch.ones(1))])
    scheduler = build_lr_scheduler(cfg.lr_scheduler, optimizer)
    for update, rate in ((2, 0.2), (4, 0.4), (16, 0.2)):
        scheduler.step_update(update)
        assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(rate)]


def test_state_survives_a_checkpoint(tmp_path):
    def steps(optimizer, param, count, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            param.grad = torch.randn(3, generator=generator)
            optimizer.step()

    whole = torch.nn.Parameter(torch.ones(3))
    optimizer = build([whole], weight_decay=0.1)
    steps(optimizer, whole, 8, seed=1)
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    resumed = torch.nn.Parameter(whole.detach().clone())
    steps(optimizer, whole, 8, seed=2)

    optimizer = build([resumed], weight_decay=0.1)
    optimizer.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), {"lr": 0.1})
    steps(optimizer, resumed, 8, seed=2)
    assert torch.equal(resumed, whole)


def test_half_precision_weights_are_trained_on_copies_in_full_precision():
    words = [*TRAINING, "--lr", "0.001", "--bf16", "--cpu"]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    weight = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    optimizer = optim.FP16Optimizer.build_optimizer(cfg, [weight])
    for _ in range(8):
        optimizer.zero_grad()
        optimizer.backward((weight * torch.tensor([1.0, -1.0], dtype=torch.bfloat16)).sum())
        optimizer.step()
    assert optimizer.supports_flat_params
    expected, _ = by_hand(1.0, [1.0] * 8, [0.001] * 8, 0.9, 0.999, 1e-8, 0.0)
    assert optimizer.fp32_params[0][0].item() == pytest.approx(expected[-1], rel=1e-6)
    assert weight.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="Unsupported optimizer"):
        optim.MemoryEfficientFP16Optimizer.build_optimizer(cfg, [weight])


def test_importing_the_file_once_more_is_harmless():
    registered = OPTIMIZER_REGISTRY["radam"]
    spec = importlib.util.spec_from_file_location("another_name.optim.radam", radam.__file__)
    module = importlib.util.module_from_spec(spec)
    module.__package__ = radam.__package__
    spec.loader.exec_module(module)
    assert OPTIMIZER_REGISTRY["radam"] is registered


@pytest.mark.parametrize("option", [{"eps": -1.0}, {"weight_decay": -1.0}, {"lr": -1.0}], ids=str)
def test_options_out_of_range_are_one_line(option):
    with pytest.raises(SystemExit, match="Invalid"):
        build([torch.nn.Parameter(torch.ones(2))], **option)
