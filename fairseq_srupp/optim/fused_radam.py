"""Rectified Adam with decoupled weight decay, one pass over memory a step. Needs torch only."""

import functools
import math
from collections import defaultdict
from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor
from torch.optim.radam import radam


class FusedRAdam(torch.optim.RAdam):
    """`torch.optim.RAdam(decoupled_weight_decay=True)` whose rectified steps are done by torch's fused kernel of AdamW.

    Arguments, state and errors are the same, and each loads the other's state dict. A rectified step t (rho_t > 5) is

        w -= lr decay w;      w -= lr s m / (sqrt(v) + eps),    s = r_t sqrt(1 - beta2^t) / (1 - beta1^t)

    and the kernel, given a rate, decay' and t', computes

        w -= rate decay' w;   w -= rate / (1 - beta1^t') m / (sqrt(v) / sqrt(1 - beta2^t') + eps)

    With rate = lr s, decay' = decay / s and t' infinite they are the same. s is computed on the host, in double
    precision, from step counts that are kept there, so a step never waits for the device.

    The kernel takes real weights on CPU and CUDA that are contiguous, as are their gradients. The others, and steps
    that are not rectified (the first five at the default betas), are left to torch's RAdam.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: Tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, lr, betas, eps, weight_decay, decoupled_weight_decay=True)

    @torch.no_grad()
    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        """One update of every weight that has a gradient. Returns what `closure`, called first, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lists = [[] for _ in range(5)]  # weights, gradients, averages of these and of their squares, step counts
            has_complex = self._init_group(group, *lists)
            batches = defaultdict(list)
            for tensors in zip(*lists):
                weight = tensors[0]
                batches[weight.device, weight.dtype, _scale(group, tensors)].append(tensors)
            for (device, _, scale), batch in batches.items():
                _update([list(tensors) for tensors in zip(*batch)], group, device, scale, has_complex)
        return loss


@functools.lru_cache(maxsize=1024)
def step_scale(step: float, beta1: float, beta2: float, dtype: torch.dtype = torch.double) -> Optional[float]:
    """s of step 1, 2, ... for averages made with betas rounded to `dtype`; None if the step is not rectified."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * step * beta2**step / (1 - beta2**step)
    if rho <= 5:
        return None
    rectification = math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
    beta1, beta2 = torch.tensor([beta1, beta2], dtype=dtype).tolist()
    return rectification * math.sqrt(1 - beta2**step) / (1 - beta1**step)


def _scale(group: dict, tensors: Tuple[Tensor, ...]) -> Optional[float]:
    """s of a weight's coming step, or None if that is not for the kernel."""
    weight, grad, exp_avg, exp_avg_sq, step = tensors
    # On a CPU the kernel reads memory in order, whatever the strides are.
    in_order = weight.is_contiguous() and grad.is_contiguous() and exp_avg.is_contiguous() and exp_avg_sq.is_contiguous()
    decoupled = group["decoupled_weight_decay"] or group["weight_decay"] == 0
    if not (in_order and decoupled and weight.is_floating_point() and weight.device.type in ("cpu", "cuda")):
        return None
    # On CUDA the kernel computes 1 - beta in single precision, 1.3e-5 too little for 0.999. A correction for that beta
    # makes up for it.
    single = weight.is_cuda and weight.dtype != torch.double
    return step_scale(step.item() + 1, *group["betas"], torch.float if single else torch.double)


def _update(lists: list, group: dict, device: torch.device, scale: Optional[float], has_complex: bool) -> None:
    beta1, beta2 = group["betas"]
    if scale is None:
        names = "lr eps weight_decay decoupled_weight_decay foreach maximize capturable differentiable".split()
        options = {name: group[name] for name in names}
        radam(*lists, beta1=beta1, beta2=beta2, has_complex=has_complex, **options)
        return
    *tensors, steps = lists
    torch._foreach_add_(steps, torch.tensor(1.0), alpha=1)  # a number would be made a tensor for each of them
    torch._fused_adamw_(
        *tensors,
        [],
        [torch.full((), math.inf, dtype=torch.float, device=device)] * len(steps),
        lr=float(group["lr"]) * scale,
        beta1=beta1,
        beta2=beta2,
        weight_decay=group["weight_decay"] / scale,
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )
