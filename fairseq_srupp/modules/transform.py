"""The three ways from a layer's input X to the recurrence's input U (figure 2 of the paper).

The sizes are those of modules/__init__.py; where nothing decodes, g = 1. The three parts of U are the candidate of the
state and the inputs of the forget and reset gates, U[t, 2], U[t, 0] and U[t, 1] in equations 2 to 4.
"""

import math
from typing import Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import attend, probabilities
from .masks import AttentionMask
from .state import KeyValueCache

ATTENTION_NORMS = ("post", "pre", "none")


class RMSNorm(nn.RMSNorm):
    """Under autocast too in the dtype of its weight, and the result in that of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.to(self.weight.dtype), self.normalized_shape, self.weight, self.eps).to(x.dtype)


class LinearTransform(nn.Module):
    """Plain SRU, figure 2 (a), equation 1: U = X W.

    Args:
        hidden_size: d.
    """

    def __init__(self, hidden_size: int):
        super().__init__()
        self.out_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        nn.init.xavier_uniform_(self.out_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        """x: (L, B, d). Returns U (L, B, 3d)."""
        return self.out_proj(x)


class ProjectedTransform(nn.Module):
    """SRU with a projection, figure 2 (b): U = Dropout(LayerNorm(X W^q)) W^o.

    Args:
        hidden_size: d.
        attention_dim: d', the size of the projection.
        dropout: of the normalised projection.
        attention_norm: "post", "pre" (the same as post here) or "none" (no layer norm, appendix A.2).
    """

    def __init__(self, hidden_size: int, attention_dim: int, *, dropout: float = 0.0, attention_norm: str = "post"):
        super().__init__()
        if attention_norm not in ATTENTION_NORMS:
            raise ValueError(f"attention_norm must be one of {', '.join(ATTENTION_NORMS)}, not {attention_norm!r}")
        self.attention_norm = attention_norm
        self.in_proj = nn.Linear(hidden_size, attention_dim, bias=False)
        self.norm = nn.LayerNorm(attention_dim) if attention_norm != "none" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(attention_dim, 3 * hidden_size, bias=False)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        with torch.no_grad():
            self.out_proj.weight.mul_(math.sqrt(1 - dropout))

    def forward(self, x: Tensor) -> Tensor:
        """x: (L, B, d). Returns U (L, B, 3d)."""
        return self.output(self.norm(self.in_proj(x)))  # (L, B, d) to (L, B, d') to (L, B, 3d)

    def output(self, z: Tensor) -> Tensor:
        """U = Dropout(Z) W^o for z (L, B, d')."""
        return self.out_proj(self.dropout(z))


class AttentionTransform(ProjectedTransform):
    """SRU++, figure 2 (c) and section 3: U = Dropout(LayerNorm(Q + alpha A)) W^o.

    Q = X W^q, keys and values are projections of Q, and A is the scaled dot-product attention of Q over them. Before
    its own positions a query sees a context, whose inputs pass through the same projections: the memory of a language
    model or the source states of a translation decoder (appendix B). It is given as its Q, `in_proj` of its inputs: a
    stack computes that of all its layers in one product, where the inputs are the same.

    Args:
        heads: attention heads; must divide d'.
        attention_dropout: of the attention probabilities.
        attention_norm: "post" as above; "pre": query, keys and values are taken from LayerNorm(Q), the residual is Q;
            "none".
        query_key_norm: queries and keys are divided by their root mean square, each head's by itself, and get a gain
            for each channel (RMSNorm, not in the paper): how sharp attention is no longer follows from the size of X.
        independent_query: a third d' by d' matrix for the query, over X' = X W, the residual being X' (section 3).
        alpha_init: alpha at the start. At the paper's 0 a layer begins without attention.
    """

    def __init__(
        self,
        hidden_size: int,
        attention_dim: int,
        *,
        heads: int = 1,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        attention_norm: str = "post",
        query_key_norm: bool = False,
        independent_query: bool = False,
        alpha_init: float = 0.0,
    ):
        super().__init__(hidden_size, attention_dim, dropout=dropout, attention_norm=attention_norm)
        if heads < 1 or attention_dim % heads:
            raise ValueError(f"attention_dim ({attention_dim}) must be a multiple of heads ({heads})")
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.kv_proj = nn.Linear(attention_dim, 2 * attention_dim, bias=False)
        nn.init.xavier_uniform_(self.kv_proj.weight)
        self.query_proj = nn.Linear(attention_dim, attention_dim, bias=False) if independent_query else nn.Identity()
        if independent_query:
            nn.init.xavier_uniform_(self.query_proj.weight)
        self.query_norm = RMSNorm(attention_dim // heads, eps=1e-6) if query_key_norm else nn.Identity()
        self.key_norm = RMSNorm(attention_dim // heads, eps=1e-6) if query_key_norm else nn.Identity()
        self.alpha = nn.Parameter(torch.full((1,), float(alpha_init)))

    def forward(self, x: Tensor, context: Optional[Tensor] = None, mask: Optional[AttentionMask] = None) -> Tensor:
        """One pass of the transform.

        Args:
            x: (L, B, d).
            context: (S, B, d'), Q of the positions before.
            mask: who sees whom among L queries and S + L keys; None: everyone sees everyone.

        Returns:
            U (L, B, 3d).
        """
        q, queries, keys, values = self._project(x, context)
        return self._attend(q, queries, keys, values, mask)

    def forward_cached(
        self, x: Tensor, cache: KeyValueCache, *, mask: Optional[AttentionMask] = None, beam: int = 1
    ) -> Tuple[Tensor, KeyValueCache]:
        """As `forward`, with the keys and values of the S positions before already computed.

        Args:
            x: (L, B, d).
            cache: of the S positions.
            mask: as of `forward`.
            beam: g, if the cache is one of sentences with g rows each (see DecodingState): it then has B / g rows, and
                L g positions are queries and new keys, those of a step next to each other.

        Returns:
            U (L, B, 3d), and the cache with the new positions behind the S old ones.
        """
        q, queries, keys, values = self._project(x, None, beam)
        cache = cache.append(keys, values)  # S + L g positions
        return self._attend(q, queries, cache.keys, cache.values, mask, beam), cache

    def weights(self, x: Tensor, context: Optional[Tensor], mask: Optional[AttentionMask]) -> Tensor:
        """The attention probabilities (B, H, L, S + L) of `forward` without a cache, in fp32 or more."""
        _, queries, keys, _ = self._project(x, context)
        return probabilities(queries, keys, mask)

    def cache_context(self, context: Tensor) -> KeyValueCache:
        """Keys and values of a context (S, B, d'), computed once for all later calls."""
        return KeyValueCache().append(*self._keys_values(self.norm(context) if self.attention_norm == "pre" else context))

    def _attend(
        self, q: Tensor, queries: Tensor, keys: Tensor, values: Tensor, mask: Optional[AttentionMask], beam: int = 1
    ) -> Tensor:
        """U (L, B, 3d) of Q (L, B, d') and what attends to what."""
        # A, (B / g, H, L g, d'/H)
        a = attend(queries, keys, values, mask, self.attention_dropout if self.training else 0.0)
        a = a.permute(2, 0, 1, 3).flatten(2)  # (L g, B / g, H, d'/H) to (L g, B / g, d')
        # (L g, B / g, d') to (L, g, B / g, d') to (L, B / g, g, d') to (L, B, d')
        z = q + self.alpha * a.unflatten(0, [-1, beam]).transpose(1, 2).reshape(q.shape)
        return self.output(self.norm(z) if self.attention_norm == "post" else z)

    def _project(self, x: Tensor, context: Optional[Tensor], beam: int = 1) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q (L, B, d') of x, its queries (B / g, H, L g, d'/H), and keys and values (B / g, H, S + L g, d'/H) of context
        and x."""
        q = self.in_proj(x)  # Q = X W^q, (L, B, d')
        seen = q if context is None else torch.cat((context, q))  # (S + L, B, d')
        attended = self.norm(seen) if self.attention_norm == "pre" else seen
        if beam > 1:  # (L, G g, d') to (L, G, g, d') to (L, g, G, d') to (L g, G, d'), G = B / g; with beams S = 0 here
            attended = attended.unflatten(1, [-1, beam]).transpose(1, 2).flatten(0, 1)
        # the last L g of S + L g positions, (L g, B / g, d') to (B / g, H, L g, d'/H)
        queries = self._split_heads(self.query_proj(attended[attended.size(0) - x.size(0) * beam :]))
        keys, values = self._keys_values(attended)  # (B / g, H, S + L g, d'/H) each
        return q, self.query_norm(queries), keys, values

    def _keys_values(self, attended: Tensor) -> Tuple[Tensor, Tensor]:
        """K and V, both (B, H, L, d'/H), of what is attended to, (L, B, d'): Q, or LayerNorm(Q) for "pre"."""
        keys, values = self.kv_proj(attended).chunk(2, dim=-1)  # (L, B, 2d') to (L, B, d') each
        return self.key_norm(self._split_heads(keys)), self._split_heads(values)

    def _split_heads(self, t: Tensor) -> Tensor:
        """(L, B, d') to (B, H, L, d'/H)."""
        return t.unflatten(-1, [self.heads, -1]).permute(1, 2, 0, 3)  # through (L, B, H, d'/H)
