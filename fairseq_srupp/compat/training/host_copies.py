"""Tensors that went to a GPU know the host's copy.

fairseq (0.12) moves a whole batch to the GPU before a model sees it. Whether anything in it is padded, the host knew; a
model that asks the GPU waits until all work before is done, in every step. May go when fairseq's batches say it.
"""

from typing import Optional

import torch
from torch import Tensor

from fairseq_srupp.compat.patch import wrap


def host_copy(tensor: Tensor) -> Optional[Tensor]:
    """A tensor with the same values on the host: itself, or what it was moved from; None where asking would wait, or
    where there are no values (FakeTensorMode, torch.export)."""
    if torch.compiler.is_compiling() or type(tensor) is not Tensor:
        return None
    if tensor.device.type == "cpu":
        return tensor
    copy, *versions = getattr(tensor, "_host_copy", (None,))
    if copy is None or versions != [copy._version, tensor._version]:  # one of them was changed since
        return None
    return copy


def apply() -> None:
    from fairseq import utils

    @wrap(utils, "move_to_cuda")
    def move_to_cuda(original, sample, device=None):
        def move(tensor: Tensor) -> Tensor:
            (moved,) = original([tensor], device)
            integers = not (tensor.is_floating_point() or tensor.is_complex())
            if integers and tensor.device.type == "cpu" != moved.device.type and not moved.is_inference():
                moved._host_copy = (tensor, tensor._version, moved._version)
            return moved

        return utils.apply_to_sample(move, sample)
