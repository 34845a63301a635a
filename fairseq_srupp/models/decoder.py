"""What the decoders of language model and encoder-decoder share: embedding, causal stack, output, decoding state."""

from typing import Dict, Optional, Tuple

import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor, nn

from ..modules import StackState, reorder_state
from .config import SRUppConfig, build_stack, embed_dim, embed_dropout
from .embedding import OutputLayer, build_embedding


class StackDecoder(FairseqIncrementalDecoder):
    """A causal stack between embedding and output layer.

    Args:
        cfg: options.
        dictionary: of input and output.
        layers: how many.
        embedding: (V, e) to use instead of one of its own.
    """

    def __init__(
        self, cfg: SRUppConfig, dictionary: Dictionary, layers: int, embedding: Optional[nn.Embedding] = None
    ):
        super().__init__(dictionary)
        self.padding_idx = dictionary.pad()
        self.stack = build_stack(cfg, layers, input_size=embed_dim(cfg))
        self.embed_tokens = embedding or build_embedding(len(dictionary), embed_dim(cfg), self.padding_idx)
        shared = self.embed_tokens if cfg.share_decoder_input_output_embed else None
        self.output = OutputLayer(cfg.hidden_size, symbols=len(dictionary), embedding=shared)
        self.embed_dropout = embed_dropout(cfg)
        self.output_dropout = cfg.dropout

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, L) to embeddings (L, B, e)."""
        return F.dropout(self.embed_tokens(tokens.t()), self.embed_dropout, self.training)

    def scores(self, features: Tensor, features_only: bool) -> Tuple[Tensor, Dict]:
        """The stack's output (L, B, d) to what fairseq expects: scores (B, L, V) or features (B, L, d), and extras."""
        features = F.dropout(features.transpose(0, 1), self.output_dropout, self.training)
        return (features if features_only else self.output_layer(features)), {"attn": None}

    def output_layer(self, features: Tensor, **kwargs) -> Tensor:
        """Scores (B, L, V) of features (B, L, d)."""
        return self.output(features)

    def decoding_state(self, incremental_state: Dict) -> Tuple[int, Optional[StackState]]:
        """How many tokens of the sentences have been run, and the stack's state after them (0, None at the start)."""
        return self.get_incremental_state(incremental_state, "decoding") or (0, None)

    def set_decoding_state(self, incremental_state: Dict, seen: int, state: StackState) -> None:
        self.set_incremental_state(incremental_state, "decoding", (seen, state))

    def reorder_incremental_state(self, incremental_state: Dict, new_order: Tensor) -> None:
        """Let row i continue what row new_order[i] has seen."""
        seen, state = self.decoding_state(incremental_state)
        if state is not None:
            self.set_decoding_state(incremental_state, seen, reorder_state(state, new_order))


def padding_mask(tokens: Tensor, padding_idx: int) -> Optional[Tensor]:
    """Tokens (B, L) to a bool mask (L, B), True at padding; None where nothing is padded."""
    mask = tokens.t().eq(padding_idx)
    return mask if mask.any() else None
