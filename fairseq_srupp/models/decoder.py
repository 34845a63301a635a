"""What the decoders of language model and encoder-decoder share: embedding, causal stack, output, decoding state."""

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from fairseq.data import Dictionary
from fairseq.models import FairseqIncrementalDecoder
from torch import Tensor, nn

from ..compat.training.host_copies import host_copy
from ..modules import DecodingState
from ..modules.encoder_decoder import Decoder
from .config import SRUppConfig

Extras = Dict[str, List[Optional[Tensor]]]
"""What fairseq's decoders return beside scores."""

NO_LIMIT = 10**6
"""Length of sequences that fairseq's default stands for, as a whole number: scripted searches count with it."""


class StackDecoder(Decoder, FairseqIncrementalDecoder):
    """A causal stack between embedding and output layer.

    Args:
        cfg: options.
        dictionary: of input and output.
        layers: how many.
        parts: see `Decoder`. With an adaptive softmax `forward` returns features, and criterion `adaptive_loss` and
            `get_normalized_probs` go on from there.
    """

    def __init__(self, cfg: SRUppConfig, dictionary: Dictionary, layers: int, parts: Tuple[nn.Module, int, nn.Module]):
        super().__init__(cfg, layers, parts, dictionary)
        self.padding_idx = dictionary.pad()

    def scores(
        self,
        features: Tensor,
        features_only: bool,
        inner_states: Optional[List[Tensor]] = None,
        alignment: Optional[Tensor] = None,
    ) -> Tuple[Tensor, Extras]:
        """The stack's output (L, B, d) to what fairseq expects: scores (B, L, V) or features (B, L, d), and extras."""
        features = self.features(features)
        extra: Extras = {"attn": [alignment]}
        if inner_states is not None:
            states: List[Optional[Tensor]] = []
            for state in inner_states:
                states.append(state)
            extra["inner_states"] = states
        return features if features_only else self.output_layer(features), extra

    def extract_features(self, prev_output_tokens: Tensor, *args: Any, **kwargs: Any) -> Tuple[Tensor, Extras]:
        """What `forward` makes scores of: features (B, L, d), of which `output_layer` makes scores, and a dict of extras,
        with "inner_states". Arguments are those of `forward`."""
        return self(prev_output_tokens, *args, features_only=True, return_all_hiddens=True, **kwargs)

    def output_layer(self, features: Tensor) -> Tensor:
        """Scores (B, L, V) of features (B, L, d); with an adaptive softmax the features."""
        if self.output is None:
            return features
        else:
            return self.output(features)

    def get_normalized_probs(
        self, net_output: Tuple[Tensor, Optional[Extras]], log_probs: bool, sample: Optional[Dict[str, Tensor]] = None
    ) -> Tensor:
        """(Log-)probabilities (B, L, V) of what `forward` returned.

        With an adaptive softmax and a sample, only what stands at the sample's target is meaningful.
        """
        if self.adaptive_softmax is None:
            return self.get_normalized_probs_scriptable(net_output, log_probs, sample)
        else:
            target = None if sample is None else sample["target"]
            result = self.adaptive_softmax.get_log_prob(net_output[0], target)
            return result if log_probs else result.exp()

    def max_positions(self) -> int:
        return NO_LIMIT

    def run_decoding(
        self, prev_output_tokens: Tensor, incremental_state: Dict, begin: Callable[[], DecodingState], **kwargs: Any
    ) -> Tensor:
        """The stack's output (L, B, d) for the tokens (B, all) that are not yet seen; begin() gives the state of the
        first step."""
        seen, state = self.get_incremental_state(incremental_state, "decoding") or (0, begin())
        features, state = self.stack.forward_decoding(self.embed(prev_output_tokens[:, seen:]), state, **kwargs)
        self.set_incremental_state(incremental_state, "decoding", (prev_output_tokens.size(1), state))
        return features

    def reorder_incremental_state(self, incremental_state: Dict[str, Dict[str, Optional[Tensor]]], new_order: Tensor) -> None:
        """Let row i continue what row new_order[i] has seen."""
        if not torch.jit.is_scripting():  # TorchScript keeps no state
            decoding = self.get_incremental_state(incremental_state, "decoding")
            if decoding is not None:
                seen, state = decoding
                self.set_incremental_state(incremental_state, "decoding", (seen, state.reorder(new_order)))

    def reorder_incremental_state_scripting(
        self, incremental_state: Dict[str, Dict[str, Optional[Tensor]]], new_order: Tensor
    ) -> None:
        """What fairseq's search calls; of all modules, through which fairseq's own looks at each step, this one has a state."""
        self.reorder_incremental_state(incremental_state, new_order)


def padding_mask(tokens: Tensor, padding_idx: int) -> Optional[Tensor]:
    """Tokens (B, L) to a bool mask (L, B), True at padding; None where nothing is padded and the host knows that: no
    device is asked, but by TorchScript."""
    if torch.jit.is_scripting():
        known: Optional[Tensor] = tokens
    else:
        known = host_copy(tokens)
    if known is not None and not known.eq(padding_idx).any():
        return None
    return tokens.t().eq(padding_idx).contiguous()  # or each layer would make it so
