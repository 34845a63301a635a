"""One SRU++ layer: a transform of the input, then the elementwise recurrence."""

from typing import Optional, Tuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..ops import sru_recurrence
from .masks import AttentionMask
from .state import KeyValueCache
from .transform import AttentionTransform, LinearTransform, ProjectedTransform


class SRUppLayer(nn.Module):
    """A layer of SRU++ (section 3), of SRU with projection (no attention) or of plain SRU (no projection).

    `forward` compiles with TorchScript.

    Args:
        hidden_size: d, of input and output.
        attention_dim: d', of query, keys and values; without attention the size of the projection.
        attention: whether the layer attends.
        projection: False gives figure 2 (a), U = X W; implies no attention.
        heads, attention_dropout, attention_norm, query_key_norm, independent_query, alpha_init: see AttentionTransform.
        dropout: of the normalised attention output.
        bidirectional: the second half of d runs backwards in time.
        checkpoint_activations: compute activations again in the backward pass instead of keeping them.

    Raises:
        ValueError: sizes that do not divide, or attention without projection.
    """

    attention: torch.jit.Final[bool]  # or the methods of the attention would be looked for in the other transforms

    def __init__(
        self,
        hidden_size: int,
        attention_dim: int,
        *,
        attention: bool = True,
        projection: bool = True,
        heads: int = 1,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        attention_norm: str = "post",
        query_key_norm: bool = False,
        independent_query: bool = False,
        alpha_init: float = 0.0,
        bidirectional: bool = False,
        checkpoint_activations: bool = False,
    ):
        super().__init__()
        if attention and not projection:
            raise ValueError("attention needs the projection: a layer without projection cannot attend")
        if bidirectional and hidden_size % 2:
            raise ValueError(f"hidden_size ({hidden_size}) must be even for a bidirectional recurrence")
        if attention:
            self.transform = AttentionTransform(
                hidden_size,
                attention_dim,
                heads=heads,
                dropout=dropout,
                attention_dropout=attention_dropout,
                attention_norm=attention_norm,
                query_key_norm=query_key_norm,
                independent_query=independent_query,
                alpha_init=alpha_init,
            )
        elif projection:
            self.transform = ProjectedTransform(hidden_size, attention_dim, dropout=dropout, attention_norm=attention_norm)
        else:
            self.transform = LinearTransform(hidden_size)
        self.attention = attention
        self.bidirectional = bidirectional
        self.checkpoint_activations = checkpoint_activations
        self.weight_c = nn.Parameter(torch.empty(2, hidden_size).uniform_(-1, 1))
        self.bias = nn.Parameter(torch.zeros(2, hidden_size))
        with torch.no_grad():
            self.bias[1].fill_(-2.0)

    def forward(
        self,
        x: Tensor,
        c0: Optional[Tensor] = None,
        context: Optional[Tensor] = None,
        mask: Optional[AttentionMask] = None,
        padding_mask: Optional[Tensor] = None,
        highway_mask: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Tensor]:
        """Run the layer over L positions.

        Args:
            x: (L, B, d).
            c0: (B, d), the state before the first position; zeros if None.
            context, mask: what attention sees besides x; see AttentionTransform.forward.
            padding_mask: bool (L, B), True at padding: the state passes, the output is 0.
            highway_mask: (B, d), the scale of c - x in the highway connection, the same for all steps (dropout).

        Returns:
            h (L, B, d), the state c (B, d) after the last position.
        """
        if not torch.jit.is_scripting():
            if self.checkpoint_activations and self.training and torch.is_grad_enabled():
                return checkpoint(self._forward, x, c0, context, mask, padding_mask, highway_mask, use_reentrant=False)
        return self._forward(x, c0, context, mask, padding_mask, highway_mask)

    def forward_cached(
        self,
        x: Tensor,
        c0: Optional[Tensor],
        cache: Optional[KeyValueCache],
        *,
        mask: Optional[AttentionMask] = None,
        padding_mask: Optional[Tensor] = None,
        highway_mask: Optional[Tensor] = None,
        beam: int = 1,
    ) -> Tuple[Tensor, Tensor, Optional[KeyValueCache]]:
        """As `forward`, with the keys and values of the positions before; see AttentionTransform.forward_cached.

        Returns:
            h, c, and the cache with the new positions; None from a layer that does not attend.
        """
        if self.attention:
            u, cache = self.transform.forward_cached(x, KeyValueCache() if cache is None else cache, mask=mask, beam=beam)
        else:
            u, cache = self.transform(x), None
        return *self._recur(u, x, c0, padding_mask, highway_mask), cache

    def _forward(
        self,
        x: Tensor,
        c0: Optional[Tensor],
        context: Optional[Tensor],
        mask: Optional[AttentionMask],
        padding_mask: Optional[Tensor],
        highway_mask: Optional[Tensor],
    ) -> Tuple[Tensor, Tensor]:
        if self.attention:
            u = self.transform(x, context=context, mask=mask)
        else:
            u = self.transform(x)
        return self._recur(u, x, c0, padding_mask, highway_mask)

    def _recur(
        self,
        u: Tensor,
        x: Tensor,
        c0: Optional[Tensor],
        padding_mask: Optional[Tensor],
        highway_mask: Optional[Tensor],
    ) -> Tuple[Tensor, Tensor]:
        u = u.unflatten(-1, [3, -1])
        if torch.jit.is_scripting():
            return torch.ops.fairseq_srupp.recurrence(
                u, x, self.weight_c, self.bias, c0, highway_mask, padding_mask, self.bidirectional
            )
        return sru_recurrence(
            u,
            x,
            self.weight_c,
            self.bias,
            c0,
            dropout_mask=highway_mask,
            padding_mask=padding_mask,
            bidirectional=self.bidirectional,
        )
