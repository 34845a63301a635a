"""Learning rates, early stopping and loss scales of a run that was stopped and started again."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files.weights_only import load

SCHEDULERS = {
    "cosine": {"max_update": 20},
    "fixed": {},
    "inverse_sqrt": {"warmup_updates": 2},
    "manual": {},
    "polynomial_decay": {"total_num_update": 20},
    "reduce_lr_on_plateau": {"maximize_best_checkpoint_metric": False},
    "step": {},
    "tri_stage": {"warmup_steps": 2, "decay_steps": 8, "max_update": 20},
    "triangular": {"max_lr": 0.2},
}


def scheduler_of(name, optimizer):
    from fairseq.optim import lr_scheduler

    kind = lr_scheduler.LR_SCHEDULER_DATACLASS_REGISTRY.get(name)
    if kind is None:
        cfg = SimpleNamespace(lr_scheduler=name, lr=[0.1], epoch2lr="{'1': 0.1}", update2lr="{}")
    else:
        cfg = OmegaConf.create({**vars(kind()), "_name": name, "lr": [0.1], **SCHEDULERS[name]})
    return lr_scheduler.build_lr_scheduler(cfg, optimizer)


@pytest.fixture
def optimizer(fairseq_cli):
    from fairseq.optim.sgd import SGD

    return SGD(SimpleNamespace(lr=[0.1], momentum=0.0, weight_decay=0.0), [torch.nn.Parameter(torch.ones(1))])


@pytest.mark.parametrize("old", SCHEDULERS)
def test_every_scheduler_goes_on_from_every_other(optimizer, old, caplog):
    """As one whose state was not restored."""
    before = scheduler_of(old, optimizer)
    before.step(1, 3.0)
    for new in SCHEDULERS:
        after, fresh = scheduler_of(new, optimizer), scheduler_of(new, optimizer)
        own = {**fresh.state_dict()}
        caplog.clear()
        after.load_state_dict(before.state_dict())
        if new == old:
            assert not caplog.records and after.state_dict() == before.state_dict()
        else:
            (record,) = caplog.records
            assert f"--lr-scheduler {old}: {new} " in record.getMessage()
            assert after.state_dict() == own
        assert after.step_update(5) == fresh.step_update(5)


def test_of_checkpoints_that_do_not_name_their_scheduler(optimizer, caplog):
    for old, new in itertools.product(SCHEDULERS, SCHEDULERS):
        state = scheduler_of(old, optimizer).state_dict()
        del state["scheduler"]
        scheduler_of(new, optimizer).load_state_dict(state)
    # fixed and manual have a state that only they can read
    assert len(caplog.records) == 2 * (len(SCHEDULERS) - 2)
    assert "another kind: cosine" in caplog.text


def test_all_schedulers_of_fairseq_are_here(fairseq_cli):
    from fairseq.optim import lr_scheduler

    of_fairseq = {n for n, kind in lr_scheduler.LR_SCHEDULER_REGISTRY.items() if kind.__module__.startswith("fairseq.")}
    assert of_fairseq - {"pass_through"} == set(SCHEDULERS)  # pass_through leaves it to the optimizer


def rates(folder):
    """The learning rate and the scheduler's state of the last checkpoint."""
    state = load(str(folder / "checkpoint_last.pt"))
    return state["last_optimizer_state"]["param_groups"][0]["lr"], state["optimizer_history"][-1]["lr_scheduler_state"]


@pytest.mark.parametrize(
    "options, ends",
    [
        # validation hardly changes at this rate: after two epochs without a gain, the third's, it is lowered
        ("reduce_lr_on_plateau --lr-patience 1 --lr-threshold 0.5 --lr-shrink 0.5 --lr 1e-4", (7, 14, 18, 22)),
        ("polynomial_decay --force-anneal 2 --total-num-update 60 --lr 0.01", (7, 9, 16)),
        ("fixed --force-anneal 2 --lr-shrink 0.5 --lr 0.01", (9, 14, 16)),
    ],
)
def test_rates_that_go_by_epochs(fairseq_cli, text, tmp_path, options, ends):
    """Of 7 updates each."""
    train = f"{text.train.replace('--lr 0.01', '')} --lr-scheduler {options} --save-interval 100 --no-epoch-checkpoints"
    fairseq_cli("train", train, "--max-update", ends[-1], "--save-dir", tmp_path / "whole")
    for end in ends:
        fairseq_cli("train", train, "--max-update", end, "--save-dir", tmp_path / "parts")
    assert rates(tmp_path / "whole") == rates(tmp_path / "parts")
    assert rates(tmp_path / "whole")[0] < float(options.split()[-1])


def test_another_scheduler_for_a_run(fairseq_cli, text, tmp_path, caplog):
    train = f"{text.train} --save-dir {tmp_path}"
    fairseq_cli("train", train, "--max-update 2")
    fairseq_cli("train", train, "--max-update 4 --lr-scheduler inverse_sqrt --warmup-updates 4 --lr 0.01")
    assert "--lr-scheduler fixed: inverse_sqrt goes on" in caplog.text
    assert rates(tmp_path)[0] == pytest.approx(0.01)  # of update 4, not of 2


def test_patience_is_not_renewed(fairseq_cli, text, tmp_path):
    """Nothing is learned: validation of epochs 2 and 3 brings no gain, which is enough."""
    train = f"{text.train.replace('--lr 0.01', '')} --lr 0 --patience 2 --save-dir {tmp_path}"
    fairseq_cli("train", train, "--max-update 14")
    fairseq_cli("train", train, "--max-epoch 6")
    assert load(str(tmp_path / "checkpoint_last.pt"))["optimizer_history"][-1]["num_updates"] == 3 * 7


def test_another_optimizer_under_bf16(fairseq_cli, text, tmp_path):
    train = f"{text.train} --bf16 --save-dir {tmp_path}"
    fairseq_cli("train", train, "--max-update 2")
    with pytest.raises(UserError, match="is FairseqAdam, this run's SGD: give --reset-optimizer"):
        fairseq_cli("train", train, "--max-update 4 --optimizer sgd")
    fairseq_cli("train", train, "--max-update 4 --optimizer sgd --reset-optimizer")
    fairseq_cli("train", train, "--max-update 6 --optimizer sgd")


@pytest.fixture(params=["fp16", "amp"])
def scaled(request, fairseq_cli):
    """A function that makes a parameter, and fairseq's optimizer of it with a loss scale."""
    from fairseq.dataclass.configs import CommonConfig, DistributedTrainingConfig, OptimizationConfig
    from fairseq.optim.adam import FairseqAdamConfig
    from fairseq.optim.amp_optimizer import AMPOptimizer
    from fairseq.optim.fp16_optimizer import FP16Optimizer

    parts = {"common": CommonConfig, "distributed_training": DistributedTrainingConfig}
    parts["optimization"], parts["optimizer"] = OptimizationConfig, FairseqAdamConfig
    cfg = OmegaConf.create({name: {**vars(part())} for name, part in parts.items()})
    cfg.optimizer = {**cfg.optimizer, "_name": "adam", "lr": [0.1], "tpu": False, "fp16_adam_stats": False}
    cfg.optimization.update_freq, cfg.common.fp16_scale_window, cfg.common.fp16_no_flatten_grads = [1], 4, True

    def make():
        parameter = torch.nn.Parameter(torch.ones(2))
        if request.param == "fp16":
            return parameter, FP16Optimizer.build_optimizer(cfg, [parameter])
        made = AMPOptimizer.build_optimizer(cfg, [parameter])
        made._grad_scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=4)
        return parameter, made

    return make


@pytest.mark.filterwarnings("ignore:.*GradScaler is enabled, but CUDA")
def test_the_loss_scale_grows_when_it_would_have(scaled):
    def update(parameter, optimizer):
        optimizer.zero_grad()
        optimizer.backward(parameter.sum())
        optimizer.step()

    def scale(optimizer):
        return getattr(optimizer.scaler, "loss_scale", None) or optimizer.scaler.get_scale()

    (parameter, whole), (same, parts) = scaled(), scaled()
    before = scale(whole)
    for _ in range(7):
        update(parameter, whole)
    parts.load_state_dict(whole.state_dict())
    scales = []
    for _ in range(6):
        update(parameter, whole)
        update(same, parts)
        scales.append((scale(whole), scale(parts)))
    assert all(one == other for one, other in scales)
    assert scales[-1][0] >= 4 * before
