"""SRU++ layers in PyTorch alone; nothing here needs fairseq."""

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
