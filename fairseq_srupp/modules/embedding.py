"""Embeddings and output layers, with the paper's initialisation."""

import math
from typing import Any, Optional, Tuple

from torch import Tensor, nn

from .options import check_options, embed_dim


def build_embedding(symbols: int, dim: int, padding_idx: int, *, variance: Optional[float] = None) -> nn.Embedding:
    """An embedding of (symbols, dim), uniform with this variance (1/dim) around 0; the padding symbol's row is 0."""
    embedding = nn.Embedding(symbols, dim, padding_idx)
    _init_uniform(embedding.weight, variance)
    nn.init.zeros_(embedding.weight[padding_idx].detach())
    return embedding


class OutputLayer(nn.Module):
    """Scores of the vocabulary: features (..., d) to (..., V), with a bias.

    Args:
        hidden_size: d.
        symbols: V, for weights of its own; or
        embedding: whose (V, e) weights are shared; a bias-free projection d to e comes first where e is not d.
        variance: of weights of its own at the start, uniform around 0 (1/d).
    """

    def __init__(
        self,
        hidden_size: int,
        *,
        symbols: int = 0,
        embedding: Optional[nn.Embedding] = None,
        variance: Optional[float] = None,
    ):
        super().__init__()
        dim = hidden_size if embedding is None else embedding.embedding_dim
        self.proj = None
        if dim != hidden_size:
            self.proj = nn.Linear(hidden_size, dim, bias=False)
            nn.init.xavier_uniform_(self.proj.weight)
        self.linear = nn.Linear(dim, symbols if embedding is None else embedding.num_embeddings)
        if embedding is None:
            _init_uniform(self.linear.weight, variance)
        else:
            self.linear.weight = embedding.weight
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features if self.proj is None else self.proj(features))


def build_target_embeddings(
    cfg: Any, symbols: int, padding_idx: int, shared: Optional[nn.Embedding] = None
) -> Tuple[nn.Module, int, nn.Module]:
    """What `build_embeddings` gives a language model, for the decoder of an encoder-decoder.

    Args:
        cfg: options, see options.py.
        symbols, padding_idx: see build_embedding.
        shared: the embedding to use instead of one of its own.

    Raises:
        ValueError: an option that is out of range.
    """
    check_options(cfg, cfg.decoder_layers)
    embed_tokens = build_embedding(symbols, embed_dim(cfg), padding_idx) if shared is None else shared
    tied = cfg.share_decoder_input_output_embed or cfg.share_all_embeddings
    output = OutputLayer(cfg.hidden_size, symbols=symbols, embedding=embed_tokens if tied else None)
    return embed_tokens, embed_dim(cfg), output


def _init_uniform(weight: Tensor, variance: Optional[float]) -> None:
    bound = math.sqrt(3 * (1 / weight.size(1) if variance is None else variance))
    nn.init.uniform_(weight, -bound, bound)
