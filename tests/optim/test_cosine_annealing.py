"""--lr-scheduler cosine_annealing against torch's CosineAnnealingLR, stepped beside a warm-up."""

import importlib.util
import math

import pytest
import torch
from fairseq import optim, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.optim.lr_scheduler import LR_SCHEDULER_REGISTRY, build_lr_scheduler
from omegaconf import OmegaConf

from fairseq_srupp.optim import cosine_annealing, radam  # noqa: F401 (registers the optimizer)
from fairseq_srupp.optim.cosine_annealing import CosineAnnealing, CosineAnnealingConfig

PEAK = 0.0003


def scheduler(lr=(PEAK,), **config):
    optimizer = optim.build_optimizer(OmegaConf.create({"_name": "radam", "lr": list(lr)}), [torch.nn.Parameter(torch.zeros(1))])
    return CosineAnnealing(CosineAnnealingConfig(lr=list(lr), **config), optimizer)


def rates_of_training(warmup, updates, first):
    """The rate of every update: torch's schedule goes on during the warm-up, which overwrites what it set."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=updates)
    rates = []
    for done in range(updates):
        if done < warmup:
            optimizer.param_groups[0]["lr"] = PEAK * (done + first) / warmup
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cosine.step()
    return rates


@pytest.mark.parametrize("warmup, updates", [(0, 50), (1, 50), (2, 7), (40, 1000), (160, 4000), (9, 10), (30, 10)])
@pytest.mark.parametrize("from_zero", [False, True])
def test_every_update_has_the_rate_of_the_recursion(warmup, updates, from_zero):
    if from_zero and warmup == 1:
        pytest.skip("refused")
    schedule = scheduler(warmup_updates=warmup, max_update=updates, warmup_from_zero=from_zero)
    found = [schedule.optimizer.get_lr()]
    for done in range(1, updates):
        assert schedule.step_update(done) == schedule.optimizer.get_lr()
        found.append(schedule.optimizer.get_lr())
    expected = rates_of_training(warmup, updates, 0 if from_zero else 1)
    assert max(abs(a - b) for a, b in zip(found, expected)) < 1e-7 * PEAK
    if warmup < updates:
        assert schedule.step_update(updates) == schedule.step_update(updates + 1) == 0


def test_a_resumed_run_has_the_same_rates():
    whole = scheduler(warmup_updates=5, max_update=30)
    rates = [whole.step_update(done) for done in range(30)]
    for stop in (2, 5, 17):
        resumed = scheduler(warmup_updates=5, max_update=30)
        resumed.load_state_dict(whole.state_dict())
        assert [resumed.step_update(done) for done in range(stop, 30)] == rates[stop:]


def test_on_the_command_line():
    words = "data --task language_modeling --arch transformer_lm --optimizer radam --lr 0.4 --max-update 9 --warmup-updates 2"
    words = [*words.split(), "--lr-scheduler", "cosine_annealing"]
    cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), words))
    optimizer = optim.build_optimizer(cfg.optimizer, [torch.nn.Parameter(torch.zeros(1))])
    schedule = build_lr_scheduler(cfg.lr_scheduler, optimizer)
    assert [schedule.step_update(0), schedule.step_update(1)] == [0.2, 0.4]
    # the updates after the warm-up are those of a cosine over all 9
    assert schedule.step_update(3) == pytest.approx(0.4 * 1.5 / (1 + math.cos(math.pi / 9)))


@pytest.mark.parametrize(
    "config, message",
    [
        ({"max_update": 0}, "needs --max-update"),
        ({"max_update": 10, "warmup_updates": -1}, "--warmup-updates must be at least 0, not -1"),
        ({"max_update": 10, "warmup_updates": 1, "warmup_from_zero": True}, "--warmup-updates of at least 2"),
        ({"max_update": 10, "lr": (0.1, 0.2)}, "needs one --lr, the peak, not 2"),
    ],
)
def test_impossible_options_are_one_line(config, message):
    with pytest.raises(SystemExit, match=message):
        scheduler(**config)


def test_importing_the_file_once_more_is_harmless():
    registered = LR_SCHEDULER_REGISTRY["cosine_annealing"]
    spec = importlib.util.spec_from_file_location("another_name.optim.cosine", cosine_annealing.__file__)
    module = importlib.util.module_from_spec(spec)
    module.__package__ = cosine_annealing.__package__
    spec.loader.exec_module(module)
    assert LR_SCHEDULER_REGISTRY["cosine_annealing"] is registered
