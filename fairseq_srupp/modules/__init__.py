"""SRU++ layers in PyTorch alone; nothing here needs fairseq."""

from .adaptive import AdaptiveInput, AdaptiveSoftmax
from .layer import SRUppLayer
from .stack import SRUppStack, attention_layer_indices
from .state import KeyValueCache, LayerState, StackState, reorder_state

__all__ = [
    "AdaptiveInput",
    "AdaptiveSoftmax",
    "KeyValueCache",
    "LayerState",
    "SRUppLayer",
    "SRUppStack",
    "StackState",
    "attention_layer_indices",
    "reorder_state",
]
