"""SRU++ layers in PyTorch alone; nothing here needs fairseq.

Sizes, in the paper's letters where it has them:

    d, d'   hidden size of a layer, size of its attention
    H       attention heads, each of d'/H
    B       rows of a batch: texts, sentences or hypotheses side by side
    L       positions of a row that are computed now: a segment, a sentence, or a step of decoding
    M       positions of memory: before the segment, or in evaluation before each position
    S       positions seen besides the L: the source of a translation, the memory, what was decoded before
    K       keys: S + L
    T       steps of decoding before
    G, g    in a beam search the sentences, and the hypotheses of each: B = G g
    V, e    symbols of the vocabulary, size of an embedding

Activations are length first, (L, B, d); masks of attention are batch first, (B, 1, L, K).
"""

from .adaptive import AdaptiveInput, AdaptiveSoftmax
from .attention_layers import attention_layer_indices
from .decoding import DecodingState
from .layer import SRUppLayer
from .stack import SRUppStack
from .state import KeyValueCache, LayerState, StackState

__all__ = [
    "AdaptiveInput",
    "AdaptiveSoftmax",
    "DecodingState",
    "KeyValueCache",
    "LayerState",
    "SRUppLayer",
    "SRUppStack",
    "StackState",
    "attention_layer_indices",
]
