"""Whether autocast is on, for devices that have none as well."""

from __future__ import annotations

import torch

# Asked here, not in the call: torch.compile of torch 2.10 cannot follow the question.
_DEVICES = frozenset(name for name in ("cpu", "cuda", "xpu", "mps") if torch.amp.is_autocast_available(name))


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype to compute in on devices of this type; None outside of autocast."""
    if device_type in _DEVICES and torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return None
