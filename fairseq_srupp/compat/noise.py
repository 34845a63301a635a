"""Warnings about fairseq's own code, which its users cannot mend and which would bury a line that matters.

fairseq (0.12) uses `torch.cuda.amp.autocast` (deprecated since torch 2.4) in every training step, asks for
pinned memory on machines without a GPU, mixes the types of attention masks (deprecated since torch 2.0),
gives DistributedDataParallel `broadcast_buffers` (deprecated in torch 2.13), and calls hydra as in
version 1.0. Each filter may go with the call that it is about.
"""

import warnings

_ABOUT_FAIRSEQ = (
    (r"`torch\.cuda\.amp\.", FutureWarning),
    (r"'pin_memory' argument is set as true but no accelerator", UserWarning),
    (r"Support for mismatched key_padding_mask and attn_mask", UserWarning),
    (r"`broadcast_buffers` is deprecated", FutureWarning),
    (r"hydra\.experimental\.\w+\(\) is no longer experimental", UserWarning),
    (r"\s*The version_base parameter is not specified", UserWarning),
    (r"In 'config': Usage of deprecated keyword", UserWarning),
    (r"\s*'config' is validated against ConfigStore schema", UserWarning),
    (r"\s*The strict flag in the compose API is deprecated", UserWarning),
)


def apply() -> None:
    for message, category in _ABOUT_FAIRSEQ:
        warnings.filterwarnings("ignore", message=message, category=category)
