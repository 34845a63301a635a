"""Fixtures for all tests."""

import contextlib
import signal

import pytest
import torch
from torch import nn

# fairseq's commands are there before they import the plugin.
with contextlib.suppress(ModuleNotFoundError):
    from fairseq_cli import eval_lm, generate, interactive, train, validate  # noqa: F401

# The tensors of the tests are tiny: threads would only wait for each other. Tests of threading set their own number.
torch.set_num_threads(1)

# A shell ignores Ctrl-C for what it starts in the background, and so would all that the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no GPU")


@pytest.fixture
def poison():
    """Fills uninitialised memory with NaN, so that what no kernel writes shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def awake():
    """A function that takes a module off its initial values: at alpha = 0 attention has no effect, so bugs in it have
    none either, and biases of 0 hide a missing bias."""

    def wake(module: nn.Module, seed: int = 0) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if name.endswith("alpha"):
                    parameter.fill_(0.8)
                elif name.endswith("bias") or "norm." in name:
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        return module

    return wake
