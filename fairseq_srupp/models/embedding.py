"""Embeddings and output layers, with the paper's initialisation."""

import math

from torch import Tensor, nn


def build_embedding(symbols: int, dim: int, padding_idx: int) -> nn.Embedding:
    """An embedding of (symbols, dim), U(+-sqrt(3/dim)); the padding symbol's row is 0."""
    embedding = nn.Embedding(symbols, dim, padding_idx)
    _init_uniform(embedding.weight)
    nn.init.zeros_(embedding.weight[padding_idx].detach())
    return embedding


class OutputLayer(nn.Module):
    """Scores of the vocabulary: features (..., d) to (..., V), with a bias.

    Args:
        hidden_size: d.
        symbols: V, for weights of its own; or
        embedding: whose (V, e) weights are shared; a bias-free projection d to e comes first where e is not d.
    """

    def __init__(self, hidden_size: int, *, symbols: int = 0, embedding: nn.Embedding = None):
        super().__init__()
        dim = hidden_size if embedding is None else embedding.embedding_dim
        self.proj = None
        if dim != hidden_size:
            self.proj = nn.Linear(hidden_size, dim, bias=False)
            nn.init.xavier_uniform_(self.proj.weight)
        self.linear = nn.Linear(dim, symbols if embedding is None else embedding.num_embeddings)
        if embedding is None:
            _init_uniform(self.linear.weight)
        else:
            self.linear.weight = embedding.weight
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(features if self.proj is None else self.proj(features))


def _init_uniform(weight: Tensor) -> None:
    bound = math.sqrt(3 / weight.size(1))
    nn.init.uniform_(weight, -bound, bound)
