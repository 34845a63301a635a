"""Scaled dot-product attention, softmax(Q K^T / sqrt(d'/H)) V (section 3), in the way that is fastest for one wide head.

The ways, all with fp32 softmax (fp64 for fp64) and the same signature:

- `fused`: torch's scaled_dot_product_attention. On CUDA in half precision, with heads up to 256 and no mask, that is
  FlashAttention.
- `fused_causal`: the same behind torch's lower-right causal bias, which reaches FlashAttention with a memory and with
  dropout, where a mask tensor would not.
- `products`: batched products with a softmax between them. Wider heads than 256 leave torch only kernels that run at a
  fraction of the matrix rate; beside their products the scores of one head are few: 4 d' operations for some 10 bytes.
"""

import math
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.autocast import autocast_dtype
from ..ops.transforms import in_forward_mode, in_transform
from .masks import AttentionMask

HALF = (torch.float16, torch.bfloat16)
FLASH_SIZE = 256
"""The widest head of FlashAttention."""

SINGLE_SIZE = 128
"""The widest head that torch's memory-efficient kernel gets in fp32 on CUDA."""

FEW = 32
"""Fewer queries than this, as in decoding, are too few for `products` on a CPU: calls take the time, not operations."""


def choose(device: str, dtype: torch.dtype, head_size: int, mask: str, few: bool = False) -> str:
    """The way to attend. What was measured of them stands in examples/benchmarks/RESULTS.md.

    - On CUDA in half precision, heads up to 256: what reaches FlashAttention, or the memory-efficient kernel with a mask tensor.
    - On CUDA in fp32, heads up to 128: torch's kernel, which keeps no scores for the backward pass.
    - On a CPU, few queries: torch's kernel, since calls take the time there.
    - All others: products, which are faster and, in slices, leave out what a causal mask hides.

    Args:
        device: type of the device.
        dtype: of queries, keys and values.
        head_size: d'/H.
        mask: "none", "causal", or "tensor" where only a tensor says who sees whom.
        few: whether there are fewer than FEW queries.
    """
    if device == "cpu":
        return "fused" if few else "products"
    if device != "cuda" or head_size > (FLASH_SIZE if dtype in HALF else SINGLE_SIZE) or dtype == torch.float64:
        return "products"
    return "fused_causal" if mask == "causal" and dtype in HALF else "fused"


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Optional[AttentionMask] = None, dropout: float = 0.0) -> Tensor:
    """What each query makes of the values.

    Args:
        queries: (B, H, L, d'/H).
        keys, values: (B, H, K, d'/H).
        mask: who sees whom; None: everyone sees everyone.
        dropout: of the probabilities.

    Returns:
        A (B, H, L, d'/H); under autocast in its dtype.
    """
    if torch.jit.is_scripting():
        return fused(queries, keys, values, mask, dropout, 1 / math.sqrt(queries.size(-1)))
    else:
        device = queries.device.type
        dtype = autocast_dtype(device)
        if dtype is None:
            return _attend(queries, keys, values, mask, dropout)
        with torch.autocast(device, enabled=False):
            return _attend(queries.to(dtype), keys.to(dtype), values.to(dtype), mask, dropout)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Optional[AttentionMask], dropout: float) -> Tensor:
    device, size = queries.device.type, queries.size(-1)
    if in_forward_mode() or in_transform():  # no kernel of the ways below knows all of these
        return F.dropout(probabilities(queries, keys, mask), dropout).to(values.dtype) @ values
    if torch.jit.is_tracing():
        name = "fused"  # what is traced and saved can be no Python
    elif torch.compiler.is_compiling():
        # Compiled code serves any number of queries, and knows no causal bias.
        name = choose(device, queries.dtype, size, "none" if mask is None else "tensor")
    else:
        name = choose(device, queries.dtype, size, kind(mask), queries.size(-2) < FEW)
    way = WAYS[name]
    # Tensor cores read rows in pieces of 16 bytes; for other sizes torch takes kernels without them.
    missing = -size % 8 if device == "cuda" and queries.dtype in HALF else 0
    if missing:
        queries, keys, values = (F.pad(t, (0, missing)) for t in (queries, keys, values))
    return way(queries, keys, values, mask, dropout, 1 / math.sqrt(size))[..., :size]


def kind(mask: Optional[AttentionMask]) -> str:
    """The kind of a mask, as `choose` takes it."""
    if mask is None:
        return "none"
    return "causal" if mask.allowed is None else "tensor"


def probabilities(queries: Tensor, keys: Tensor, mask: Optional[AttentionMask]) -> Tensor:
    """The softmax alone, (B, H, L, K), in fp32 or more."""
    scores = queries @ keys.transpose(-1, -2) / math.sqrt(queries.size(-1))
    if mask is not None:
        scores = scores.masked_fill(~_allowed(mask, queries, keys), -math.inf)
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def fused(queries: Tensor, keys: Tensor, values: Tensor, mask: Optional[AttentionMask], dropout: float, scale: float) -> Tensor:
    """torch's scaled_dot_product_attention; arguments and result as of `attend`, scale: of the scores, 1 / sqrt(d'/H)."""
    allowed = None if mask is None else _allowed(mask, queries, keys)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=allowed, dropout_p=dropout, scale=scale)


def fused_causal(queries: Tensor, keys: Tensor, values: Tensor, mask: AttentionMask, dropout: float, scale: float) -> Tensor:
    """As `fused`, for a mask that is causal and nothing else."""
    from torch.nn.attention.bias import causal_lower_right

    bias = causal_lower_right(queries.size(-2), keys.size(-2))
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias, dropout_p=dropout, scale=scale)


def products(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Optional[AttentionMask], dropout: float, scale: float
) -> Tensor:
    """As `fused`, by batched products with a softmax between them, in slices of the queries where SLICE says so."""
    rows, heads = queries.shape[:2]
    allowed, causal, window = AttentionMask() if mask is None else mask
    if allowed is not None and allowed.dim() == 4:
        allowed = allowed.expand(rows, heads, -1, -1).flatten(0, 1)  # (B H, L or 1, K)
    keep = torch.is_grad_enabled() and (queries.requires_grad or keys.requires_grad or values.requires_grad)
    flat = (t.flatten(0, 1) for t in (queries, keys, values))
    return _Products.apply(*flat, allowed, causal, window, dropout, scale, keep).unflatten(0, (rows, heads))


WAYS: Dict[str, Callable[..., Tensor]] = {"fused": fused, "fused_causal": fused_causal, "products": products}

SLICE = {"cpu": 128}
"""How many queries `products` takes at once, by device, with the keys that a causal mask lets these see; all where it does not
say. On an H200 in bf16, at the sizes of the paper's models, slices gain nothing or cost more in smaller products than they save."""


def _allowed(mask: AttentionMask, queries: Tensor, keys: Tensor) -> Tensor:
    """The mask as a tensor."""
    allowed = mask.allowed
    if allowed is not None:
        return allowed
    length, seen = queries.size(-2), keys.size(-2)
    return torch.ones(length, seen, dtype=torch.bool, device=queries.device).tril(seen - length)


def _spans(length: int, seen: int, causal: bool, window: Optional[int], most: Optional[int]) -> List[Tuple[int, int, int, int]]:
    """Queries from a to b, at most about `most` of L, with the keys from low to high of K that any of them may see."""
    if not causal or most is None or length <= most:
        return [(0, length, 0, seen)]
    pieces, past = -(-length // most), seen - length
    ends = [length * i // pieces for i in range(pieces + 1)]
    return [(a, b, 0 if window is None else max(0, past + a - window), past + b) for a, b in zip(ends, ends[1:])]


class _Products(torch.autograd.Function):
    """Queries (N, L, e), keys and values (N, K, e), allowed (1 or N, L or 1, K) or (L, K) or None, to (N, L, e).

    For the backward pass it keeps, besides inputs and result, each score's probability in their dtype, and with dropout a
    byte that says whether it was kept: 3 N L K bytes in half precision; for a layer at enwik8 base (4 rows, L = 1024,
    K = 2048) 25 MB. Without `keep` it keeps nothing and has no gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        allowed: Optional[Tensor],
        causal: bool,
        window: Optional[int],
        dropout: float,
        scale: float,
        keep: bool,
    ) -> Tensor:
        # Compiled code serves all lengths, so it cannot be of as many slices as one length needs.
        most = None if torch.compiler.is_compiling() else SLICE.get(queries.device.type)
        ctx.slices, ctx.dropout, ctx.scale = (causal, window, most), dropout, scale
        results, probabilities, kept = [], [], []
        for a, b, low, high in _spans(queries.size(1), keys.size(1), *ctx.slices):
            scores = _scores(queries[:, a:b], keys[:, low:high], scale)
            if allowed is not None:
                visible = allowed[..., a:b, low:high] if allowed.size(-2) > 1 else allowed[..., low:high]
                scores.masked_fill_(~visible, -math.inf)
            elif causal:  # the last b - a keys are the queries' own positions
                future = torch.ones(b - a, b - a, dtype=torch.bool, device=scores.device).triu(1)
                scores[..., high - low - (b - a) :].masked_fill_(future, -math.inf)
            probability = scores.softmax(-1).to(queries.dtype)
            if keep:
                probabilities.append(probability)
            if dropout > 0:
                probability, mask = torch.native_dropout(probability, dropout, True)
                if keep:
                    kept.append(mask)
            results.append(torch.bmm(probability, values[:, low:high]))
        result = _joined(results)
        if keep:
            ctx.save_for_backward(queries, keys, values, result, *probabilities, *kept)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            # once_differentiable would leave them out where others reach the same weights
            raise RuntimeError("attention by products has no second derivatives (create_graph=True)")
        if autocast_dtype(grad.device.type) is None:
            return _Products.gradients(ctx, grad)
        with torch.autocast(grad.device.type, enabled=False):
            return _Products.gradients(ctx, grad)

    @staticmethod
    def gradients(ctx: Any, grad: Tensor) -> Tuple[Optional[Tensor], ...]:
        """Of all arguments of `forward`, from that of its result."""
        queries, keys, values, result, *saved = ctx.saved_tensors
        spans = _spans(queries.size(1), keys.size(1), *ctx.slices)
        probabilities, kept = saved[: len(spans)], saved[len(spans) :]
        rescale = 1 / (1 - ctx.dropout)
        # The gradient of scores is P (dP - the sum of P dP over keys); with dropout or without, that sum is the sum of A dA
        # over dimensions.
        sums = (result.to(_wide(grad.dtype)) * grad).sum(-1, keepdim=True)
        grad_queries: List[Tensor] = []
        grad_keys = grad_values = None
        for i in range(len(spans) - 1, -1, -1):  # the last slice sees most keys
            a, b, low, high = spans[i]
            dropped, grad_scores = probabilities[i], _scores(grad[:, a:b], values[:, low:high], rescale)
            if ctx.dropout > 0:
                dropped = dropped * kept[i]
                grad_scores.mul_(kept[i])
            grad_scores = grad_scores.sub_(sums[:, a:b]).mul_(probabilities[i]).to(queries.dtype)
            grad_queries.insert(0, _scaled_bmm(grad_scores, keys[:, low:high], ctx.scale))
            grad_keys = _added(grad_keys, keys, low, high, grad_scores, queries[:, a:b], ctx.scale)
            grad_values = _added(grad_values, values, low, high, dropped, grad[:, a:b], rescale)
        return (_joined(grad_queries), grad_keys, grad_values, *[None] * 6)


def _joined(slices: List[Tensor]) -> Tensor:
    return slices[0] if len(slices) == 1 else torch.cat(slices, 1)


def _added(total: Optional[Tensor], like: Tensor, low: int, high: int, left: Tensor, right: Tensor, scale: float) -> Tensor:
    """total, as large as `like` (N, K, e) or None for zeros, with scale left^T right added to rows low to high."""
    left = left.transpose(1, 2)
    if total is None:
        if high - low == like.size(1):
            return _scaled_bmm(left, right, scale)
        total = torch.zeros_like(like)
    total[:, low:high].baddbmm_(left, right, alpha=scale)
    return total


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _scores(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale times the products of all rows of left (N, L, e) and right (N, K, e): (N, L, K), in fp32 or more."""
    right = right.transpose(1, 2)
    if left.dtype in HALF:
        if left.device.type == "cuda":
            return torch.bmm(left if scale == 1 else left * scale, right, out_dtype=torch.float32)
        left, right = left.float(), right.float()
    return _scaled_bmm(left, right, scale)


def _scaled_bmm(left: Tensor, right: Tensor, scale: float) -> Tensor:
    """scale left @ right, scaled where the product is still in fp32."""
    return torch.baddbmm(left.new_empty((1, 1, 1)), left, right, beta=0, alpha=scale)
