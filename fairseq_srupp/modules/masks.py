"""Who sees whom: the mask of one attention call, shared by all layers of a stack."""

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor


class AttentionMask(NamedTuple):
    """Of L queries, the last of K positions, and all K as keys.

    allowed: bool, (L, K) or (B, 1, L or 1, K), True where a query may look; None: `causal` says it all.
    causal: no query sees a later position (and `allowed` says so too).
    window: if given, none sees more positions before itself than this many (and `allowed` says so too).
    """

    allowed: Optional[Tensor] = None
    causal: bool = False
    window: Optional[int] = None


def full_mask(padding_mask: Optional[Tensor]) -> Optional[AttentionMask]:
    """Every position sees every unpadded position (encoder). padding_mask: bool (B, L), True at padding, or None."""
    if padding_mask is None:
        return None
    # A row without any token may look everywhere: its zeros are finite, where an empty softmax would be NaN.
    keep = ~padding_mask | padding_mask.all(1, keepdim=True)
    return AttentionMask(keep[:, None, None, :])


def causal_mask(
    length: int,
    past: int,
    window: Optional[int] = None,
    padding_mask: Optional[Tensor] = None,
    source_padding_mask: Optional[Tensor] = None,
    device: Optional[torch.device] = None,
) -> Optional[AttentionMask]:
    """Positions see the whole source, and among the others the ones before them and themselves.

    Args:
        length: L, the queries.
        past: S, the keys before the first query, the source included.
        window: if given, a query sees at most this many positions before it (only without a source).
        padding_mask: bool (B, L), True at padding among the L positions themselves.
        source_padding_mask: bool (B, any), True at padding among the first of the S keys, which are source positions.

    Returns:
        A mask over L queries and S + L keys; None where everything is seen.
    """
    keys = past + length
    reach = keys if window is None else window
    windowed = reach < keys - 1
    if padding_mask is None and source_padding_mask is None and not windowed:
        if length == 1:
            return None
        return AttentionMask(None, True)
    query = torch.arange(past, keys, device=device).unsqueeze(1)
    key = torch.arange(keys, device=device)
    allowed = key <= query
    if windowed:
        allowed &= key >= query - reach
    if padding_mask is None and source_padding_mask is None:
        return AttentionMask(allowed, True, window)
    padded = torch.zeros(1, keys, dtype=torch.bool, device=device)
    if source_padding_mask is not None:
        padded = padded | F.pad(source_padding_mask, (0, keys - source_padding_mask.size(1)))
    if padding_mask is not None:
        padded = padded | F.pad(padding_mask, (past, 0))
    # A padded query keeps itself as a key, so that no softmax is empty; nothing reads its result.
    return AttentionMask((allowed & ~padded[:, None, None, :]) | (key == query), True)
