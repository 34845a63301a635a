"""The states with which the segments of a stream begin, held by the language model that makes them."""

from typing import Any, Dict, Optional, Sequence, Tuple

from torch import Tensor

from ..modules import LayerState, StackState

SegmentKey = Tuple[str, int, int]  # split, epoch, segment


class StreamStates:
    """Entry states of stream segments, keyed by split, epoch and segment.

    Looking up does not consume: a training segment can run again with the same result (an AMP retry of the whole
    update, activation checkpointing) until its update is over. Each split has its own states, so validation leaves
    those of training alone.

    Args:
        hidden_size: d, of the states that `fault` accepts.
        memories: for each layer whether it has a memory; None: of any model.
    """

    def __init__(self, hidden_size: Optional[int] = None, memories: Optional[Sequence[bool]] = None):
        self._hidden_size, self._memories = hidden_size, memories
        self._states: Dict[str, Dict[Tuple[int, int], StackState]] = {}
        self._num_updates = 0
        self._update_is_over = True

    def set_num_updates(self, num_updates: int) -> None:
        """Tell the number of updates made so far; a change means that the last update is over."""
        self._update_is_over |= num_updates != self._num_updates
        self._num_updates = num_updates

    def entry(self, key: SegmentKey, *, training: bool = False) -> Optional[StackState]:
        """The state with which a segment begins: None (zeros) for segment 0 of a split's text.

        Args:
            key: (split, epoch, segment).
            training: keep the entry states of the current update; otherwise only this segment's.

        Raises:
            KeyError: the segment before has not been run.
        """
        split, epoch, segment = key
        states = self._states.setdefault(split, {})
        position = (epoch, segment)
        if segment > 0 and position not in states:
            raise KeyError(f"no state for segment {segment} of split {split!r}, epoch {epoch}: the one before was not run")
        if not training or self._update_is_over:
            for other in [p for p in states if p != position and (p < position or not training)]:
                del states[other]
        if training:
            self._update_is_over = False
        return states[position] if segment > 0 else None

    def keep(self, key: SegmentKey, state: StackState) -> None:
        """Keep the detached state with which a segment begins."""
        split, epoch, segment = key
        self._states.setdefault(split, {})[epoch, segment] = state

    def export(self, split: str) -> Optional[Dict[str, Any]]:
        """The newest state of a split as plain tensors, or None: {"key": ..., "state": [{"c", "memory"}, ...]}."""
        states = self._states.get(split)
        if not states:
            return None
        epoch, segment = max(states)
        layers = [{"c": layer.c, "memory": layer.memory} for layer in states[epoch, segment]]
        if any(layer["memory"] is not None and not isinstance(layer["memory"], Tensor) for layer in layers):
            raise ValueError(f"split {split!r} was run in evaluation: only states of training can be saved")
        return {"key": (split, epoch, segment), "state": layers}

    def fault(self, state: Any, rows: int) -> Optional[str]:
        """Why something read from a file is no "state" of an export of B = `rows` rows; None if it is one."""
        if not isinstance(state, list) or not all(isinstance(layer, dict) for layer in state):
            return "it has no list of layers"
        memories = self._memories
        if memories is not None and len(state) != len(memories):
            return f"it has {len(state)} layers instead of {len(memories)}"
        for i, layer in enumerate(state):
            shapes = {"c": (rows, self._hidden_size)}
            if layer.get("memory") is not None if memories is None else memories[i]:
                shapes["memory"] = (None, rows, self._hidden_size)
            elif layer.get("memory") is not None:
                return f"layer {i + 1} has a memory"
            for name, shape in shapes.items():
                tensor = layer.get(name)
                if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dim() != len(shape):
                    return f"layer {i + 1} has no {name} of {len(shape)} dimensions"
                if any(size not in (None, found) for size, found in zip(shape, tensor.shape)):
                    return f"{name} of layer {i + 1} is {tuple(tensor.shape)}, expected {shape}"
        return None

    def restore(self, exported: Dict[str, Any]) -> None:
        """Put an exported state back, as the only one of its split."""
        split, epoch, segment = exported["key"]
        self._states[split] = {(epoch, segment): [LayerState(layer["c"], layer["memory"]) for layer in exported["state"]]}
