"""Adaptive input and softmax (Baevski & Auli, 2019; Grave et al., 2017): frequent words have wide embeddings.

The vocabulary, the most frequent words first, is cut into bands; the embeddings of band i have e / factor^i
dimensions, and a bias-free projection leads between them and the d of the model. The softmax's head holds the words of
band 0 and, after them, one entry for each further band, its tail.
"""

from typing import List, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Bands:
    """How a vocabulary is cut: band i holds the words from starts[i] to ends[i].

    Args:
        symbols: V, the size of the vocabulary.
        cutoffs: the ends of all bands but the last, increasing, none beyond V.

    Raises:
        ValueError: other cut-offs.
    """

    def __init__(self, symbols: int, cutoffs: Sequence[int]):
        ends = [end for end in cutoffs if end != symbols] + [symbols]
        if list(ends) != sorted(set(ends)) or ends[0] < 1:
            listed = ",".join(map(str, cutoffs))
            raise ValueError(f"cut-offs {listed}: expected increasing numbers up to the vocabulary's size, {symbols}")
        self.ends: List[int] = ends
        self.starts: List[int] = [0, *ends[:-1]]

    def sort(self, words: Tensor) -> Tuple[Tensor, List[int]]:
        """Words (N,) in the order of their bands, those of a band as they stand.

        Returns:
            Where each stands in `words`, int64 (N,), and how many each band has: the one question to the device.
        """
        band_of = torch.zeros_like(words, dtype=torch.uint8)
        for start in self.starts[1:]:
            band_of += words >= start
        counts = torch.stack([(band_of == band).sum() for band in range(len(self.ends))])
        return band_of.argsort(stable=True), counts.tolist()


def band_dims(bands: Bands, embed_dim: int, factor: float) -> List[int]:
    """The dimensions of each band's embeddings: e, e / factor, e / factor^2, ...

    Raises:
        ValueError: a band would have none left.
    """
    dims = [int(embed_dim // factor**i) for i in range(len(bands.ends))]
    if dims[-1] < 1:
        raise ValueError(f"embeddings of {embed_dim} cannot be {factor:g} times narrower {len(dims) - 1} times")
    return dims


def band_embeddings(bands: Bands, dims: Sequence[int], hidden_size: int, *, clusters: bool = False) -> nn.ParameterList:
    """For each band (words, dimensions), from U(+-sqrt(3/d)).

    With clusters, as the softmax needs it, band 0 has a row for each further band after its words.
    """
    rows = [end - start for start, end in zip(bands.starts, bands.ends)]
    rows[0] += len(rows) - 1 if clusters else 0
    bound = (3 / hidden_size) ** 0.5
    return nn.ParameterList(torch.empty(n, e).uniform_(-bound, bound) for n, e in zip(rows, dims))


def band_projections(dims: Sequence[int], hidden_size: int) -> nn.ParameterList:
    """For each band (d, dimensions), xavier-uniform."""
    return nn.ParameterList(nn.init.xavier_uniform_(torch.empty(hidden_size, e)) for e in dims)


class AdaptiveInput(nn.Module):
    """Embeddings of words, projected to d.

    Args:
        bands: of the vocabulary.
        embeddings, projections: of the bands; those of the softmax where they are shared.
        padding_idx: whose embedding is 0 at the start and gets no gradient from here.
        dropout: of the embeddings, before they are projected.
    """

    def __init__(
        self,
        bands: Bands,
        embeddings: nn.ParameterList,
        projections: nn.ParameterList,
        *,
        padding_idx: Optional[int] = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.bands = bands
        self.embeddings = embeddings
        self.projections = projections
        self.padding_idx = padding_idx
        self.dropout = dropout
        if padding_idx is not None:
            nn.init.zeros_(self.embeddings[0][padding_idx].detach())

    def forward(self, words: Tensor) -> Tensor:
        """Words, int64 of any shape, to (..., d)."""
        flat = words.reshape(-1)
        order, counts = self.bands.sort(flat)
        # Every band takes part, with no word perhaps, so that each parameter has a gradient in every process.
        rows = [self._rows(of_band, band) for band, of_band in enumerate(flat.index_select(0, order).split(counts))]
        back = torch.empty_like(order).scatter_(0, order, torch.arange(order.size(0), device=order.device))
        return torch.cat(rows).index_select(0, back).unflatten(0, words.shape)

    def _rows(self, words: Tensor, band: int) -> Tensor:
        padding_idx = self.padding_idx if band == 0 else None
        rows = F.embedding(words - self.bands.starts[band], self.embeddings[band], padding_idx)
        return F.linear(F.dropout(rows, self.dropout, self.training), self.projections[band])


class AdaptiveSoftmax(nn.Module):
    """Log-probabilities of words, computed only for the bands that are asked for.

    The names are those that fairseq's criterion `adaptive_loss` and its decoders use.

    Args:
        bands: of the vocabulary.
        embeddings, projections: of the bands, with rows for the clusters.
        dropout: of the projected features.
    """

    def __init__(self, bands: Bands, embeddings: nn.ParameterList, projections: nn.ParameterList, *, dropout: float = 0.0):
        super().__init__()
        self.bands = bands
        self.embeddings = embeddings
        self.projections = projections
        self.biases = nn.ParameterList(torch.zeros(len(e)) for e in embeddings)
        self.dropout = dropout

    def forward(self, features: Tensor, target: Tensor) -> Tuple[List[Tensor], List[Tensor]]:
        """Scores and targets of each band, for a loss that is the sum of the bands' cross entropies.

        Args:
            features: (..., d).
            target: words, int64 (...).

        Returns:
            Scores: (N, head) for all N positions, then of each tail (n, size) for its n positions, n = 0 without any:
            its parameters then have gradients of 0, as those of other processes have gradients.
            Targets within them, (N,) and (n,); in the head that of a word of a tail is the tail's entry.
        """
        scores, targets, _ = self._of_bands(features, target)
        return scores, targets

    def log_probs_of(self, features: Tensor, target: Tensor) -> Tensor:
        """Log-probabilities (...), fp32 or more, of the words target (...) after features (..., d)."""
        scores, targets, positions = self._of_bands(features, target)
        result = _chosen(scores[0], targets[0])
        for band in range(1, len(scores)):
            result = result.index_add(0, positions[band], _chosen(scores[band], targets[band]))
        return result.view(target.shape)

    def get_log_prob(self, features: Tensor, target: Optional[Tensor]) -> Tensor:
        """Log-probabilities (B, L, V), fp32 or more, of all words after features (B, L, d).

        With a target (B, L), only what stands at the target's words is meaningful: nothing else is computed, and the
        result takes no more memory than the target.
        """
        if target is not None:
            return self.log_probs_of(features, target).unsqueeze(-1).expand(*target.shape, self.bands.ends[-1])
        head = F.log_softmax(_wide(self._scores(features, 0)), dim=-1)
        parts = [head[..., : self.bands.ends[0]]]
        for band in range(1, len(self.bands.ends)):
            within = F.log_softmax(_wide(self._scores(features, band)), dim=-1)
            parts.append(within + head[..., self._entry(band)].unsqueeze(-1))
        return torch.cat(parts, dim=-1)

    def _of_bands(self, features: Tensor, target: Tensor) -> Tuple[List[Tensor], List[Tensor], Tuple[Tensor, ...]]:
        """What `forward` returns, and where the words are of each band, (n,)."""
        features, target = features.reshape(-1, features.size(-1)), target.reshape(-1)
        order, counts = self.bands.sort(target)
        positions = order.split(counts)
        head_target = target.clone()
        scores, targets = [self._scores(features, 0)], [head_target]
        for band, at in enumerate(positions[1:], start=1):
            head_target.index_fill_(0, at, self._entry(band))
            scores.append(self._scores(features.index_select(0, at), band))
            targets.append(target.index_select(0, at) - self.bands.starts[band])
        return scores, targets, positions

    def _scores(self, features: Tensor, band: int) -> Tensor:
        projected = F.linear(features, self.projections[band].t())
        projected = F.dropout(projected, self.dropout, self.training)
        return F.linear(projected, self.embeddings[band], self.biases[band])

    def _entry(self, band: int) -> int:
        """Of a tail, in the head."""
        return self.bands.ends[0] + band - 1


def _wide(scores: Tensor) -> Tensor:
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores


def _chosen(scores: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities (N,) of the target (N,) of scores (N, C)."""
    return -F.cross_entropy(_wide(scores), target, reduction="none")
