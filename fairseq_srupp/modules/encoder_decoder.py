"""Encoder and decoder: what stands around a stack, the same in fairseq's models and in those for transformers.

Both packages have base classes of their own. So these classes can stand before another one among the bases of a class,
and hand the arguments `args` on to it.
"""

from typing import Any, List, Optional, Tuple

import torch.nn.functional as F
from torch import Tensor, nn

from .adaptive import AdaptiveSoftmax
from .embedding import build_embedding
from .options import build_stack, check_options, embed_dim, embed_dropout


class _Ends(nn.Module):
    """Rates and scale of what goes into `stack`, from `embed_tokens`, and of what comes out."""

    def __init__(self, cfg: Any, *args: Any):
        super().__init__(*args)
        self.embed_scale = cfg.embed_scale
        self.embed_dropout = embed_dropout(cfg)
        self.output_dropout = cfg.dropout

    def scaled(self, embeddings: Tensor) -> Tensor:
        return embeddings if self.embed_scale == 1 else self.embed_scale * embeddings


class Encoder(_Ends):
    """Embedding and a stack that attends in full.

    Args:
        cfg: options, see options.py.
        symbols: how many words there are.
        padding_idx: the word that is padding.

    Raises:
        ValueError: options that are out of range or do not fit together.
    """

    def __init__(self, cfg: Any, symbols: int, padding_idx: int, *args: Any):
        check_options(cfg, cfg.encoder_layers)
        super().__init__(cfg, *args)
        self.padding_idx = padding_idx
        self.embed_tokens = build_embedding(symbols, embed_dim(cfg), padding_idx)
        self.stack = build_stack(
            cfg,
            cfg.encoder_layers,
            input_size=embed_dim(cfg),
            causal=False,
            bidirectional=not cfg.encoder_unidirectional,
        )

    def encode(self, x: Tensor, padding: Optional[Tensor], inner_states: Optional[List[Tensor]] = None) -> Tensor:
        """Scaled embeddings (S, B, e) to states (S, B, d).

        padding: bool (S, B), True at padding, or None. inner_states: see SRUppStack.forward.
        """
        x = F.dropout(x, self.embed_dropout, self.training)
        x = self.stack(x, padding_mask=padding, inner_states=inner_states)
        return F.dropout(x, self.output_dropout, self.training)


class Decoder(_Ends):
    """A causal stack between embedding and output layer.

    Args:
        cfg: options, see options.py.
        layers: how many.
        parts: what maps words (...) to embeddings (..., e), e, and what maps features (..., d) to scores (..., V),
            which may be an adaptive softmax.
    """

    def __init__(self, cfg: Any, layers: int, parts: Tuple[nn.Module, int, nn.Module], *args: Any):
        super().__init__(cfg, *args)
        embed_tokens, input_size, output = parts
        self.stack = build_stack(cfg, layers, input_size=input_size)
        self.embed_tokens = embed_tokens
        self.output_norm = nn.LayerNorm(cfg.hidden_size) if cfg.output_norm else nn.Identity()
        adaptive = isinstance(output, AdaptiveSoftmax)
        self.adaptive_softmax = output if adaptive else None
        self.output = None if adaptive else output

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) to embeddings (L, B, e)."""
        return F.dropout(self.scaled(self.embed_tokens(tokens.t())), self.embed_dropout, self.training)

    def features(self, h: Tensor) -> Tensor:
        """The stack's output (L, B, d) to what scores are made of, (B, L, d)."""
        return F.dropout(self.output_norm(h).transpose(0, 1), self.output_dropout, self.training)

    def log_probs(self, features: Tensor, target: Optional[Tensor] = None) -> Tensor:
        """Log-probabilities, in fp32, after features (B, L, d): (B, L, V), or (B, L) of the words target (B, L)."""
        softmax = self.adaptive_softmax
        if softmax is not None:
            return softmax.get_log_prob(features, None) if target is None else softmax.log_probs_of(features, target)
        scores = self.output(features).float().log_softmax(-1)
        return scores if target is None else scores.gather(-1, target.unsqueeze(-1)).squeeze(-1)
