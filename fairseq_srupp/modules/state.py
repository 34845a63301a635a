"""What a stack carries from one call to the next: the recurrent state and the memory that attention sees."""

from typing import Dict, List, NamedTuple, Optional, Tuple, Union

import torch
from torch import Tensor


class _Buffer:
    """Storage of a cache: (2, B, H, capacity, d'/H), of which the first `filled` positions are taken; data is None
    once another buffer has taken it over."""

    def __init__(self, data: Optional[Tensor], filled: int):
        self.data = data
        self.filled = filled

    def unspent(self) -> Tensor:
        if self.data is None:
            raise RuntimeError("this cache is spent: its rows were given to the cache that `keep` returned")
        return self.data


class KeyValueCache:
    """Keys and values of past positions, as an immutable view of a buffer that later positions share.

    Appending writes behind the view and returns a longer view, so no step copies what is there already, and the old
    view stays what it was: a segment can be run again from the same cache. Only when the buffer is full, or when
    another continuation of the same view has taken the place, the visible part moves to a new buffer. What `keep` takes
    rows from is the exception: that view and all others of its buffer are spent, and using them raises RuntimeError.
    """

    def __init__(self, buffer: Optional[_Buffer] = None, start: int = 0, end: int = 0):
        """Without arguments: an empty cache."""
        self._buffer, self.start, self._end = buffer, start, end

    def __len__(self) -> int:
        return self._end - self.start

    @property
    def buffer(self) -> Tensor:
        """(2, B, H, any, d'/H): these positions, from `start` on, and others."""
        return self._buffer.unspent()

    @property
    def keys_values(self) -> Tensor:
        """(2, B, H, len(self), d'/H): keys and values."""
        return self.buffer[:, :, :, self.start : self._end]

    @property
    def keys(self) -> Tensor:
        """(B, H, len(self), d'/H)."""
        return self.keys_values[0]

    @property
    def values(self) -> Tensor:
        """(B, H, len(self), d'/H)."""
        return self.keys_values[1]

    def append(self, keys: Tensor, values: Tensor) -> "KeyValueCache":
        """This cache followed by new keys and values, both (B, H, L, d'/H)."""
        live = None if self._buffer is None else self.keys_values
        if keys.requires_grad or (live is not None and live.requires_grad):
            new = torch.stack((keys, values))
            data = new if live is None else torch.cat((live, new), 3)
            return KeyValueCache(_Buffer(data, data.size(3)), 0, data.size(3))
        longer = self.longer(keys, keys.shape)
        longer.keys[:, :, len(self) :] = keys
        longer.values[:, :, len(self) :] = values
        return longer

    def longer(self, like: Tensor, shape: Tuple[int, int, int, int]) -> "KeyValueCache":
        """This cache with places for new keys and values (B, H, L, d'/H) behind it, in which nothing is yet; the first ones are
        of the dtype and device of `like`. Not where gradients are recorded."""
        rows, heads, length, size = shape
        buffer, start, end = self._buffer, self.start, self._end + length
        if buffer is not None:
            like = buffer.unspent()
        if buffer is None or buffer.filled != self._end or end > like.size(3):
            # Twice the room that is needed: moving costs a constant per appended position, however long the cache gets.
            data = like.new_empty((2, rows, heads, 2 * (len(self) + length), size))
            if len(self):
                data[:, :, :, : len(self)] = self.keys_values
            buffer, start, end = _Buffer(data, len(self)), 0, len(self) + length
        buffer.filled = end
        return KeyValueCache(buffer, start, end)

    def detach(self) -> "KeyValueCache":
        """The same positions without the graph that made them; the cache itself where none did."""
        if self._buffer is None or not self.keys_values.requires_grad:
            return self
        return KeyValueCache(_Buffer(self._buffer.data.detach(), self._buffer.filled), self.start, self._end)

    def last(self, n: Optional[int]) -> "KeyValueCache":
        """The view of the last n positions; all of them for None."""
        start = self.start if n is None else max(self.start, self._end - n)
        return KeyValueCache(self._buffer, start, self._end)

    def reorder(self, order: Tensor) -> "KeyValueCache":
        """A copy of the batch rows `order` (B',)."""
        if self._buffer is None:
            return self
        live = self.keys_values
        if live.requires_grad:
            data = live.index_select(1, order)
        else:
            capacity = self._buffer.data.size(3) - self.start
            data = live.new_empty((2, order.size(0), live.size(2), capacity, live.size(4)))
            torch.index_select(live, 1, order, out=data[:, :, :, : len(self)])
        return KeyValueCache(_Buffer(data, len(self)), 0, len(self))

    def keep(self, rows: int, moves: Dict[int, int]) -> "KeyValueCache":
        """Only the first `rows` batch rows, after each row in `moves` has gone where `moves` says.

        No other row is copied, and the views of this buffer are spent (not where gradients are recorded: all is copied
        then).
        """
        if self._buffer is None:
            return self
        live, buffer = self.keys_values, self._buffer
        if live.requires_grad:
            order = list(range(rows))
            for row, place in moves.items():
                order[place] = row
            return self.reorder(torch.tensor(order, dtype=torch.long, device=live.device))
        for row, place in moves.items():
            live[:, place] = live[:, row]
        kept = _Buffer(buffer.data[:, :rows], self._end)
        buffer.data = None
        return KeyValueCache(kept, self.start, self._end)


class LayerState(NamedTuple):
    """State of one layer after its last position.

    c: (B, d), float32 (float64 for double models); None before the first position (zeros).
    memory: the layer's inputs of the last M positions, (M, B, d), detached (training); their keys and values
        (evaluation, decoding); None where the layer does not attend, or at the start.
    """

    c: Optional[Tensor] = None
    memory: Union[Tensor, KeyValueCache, None] = None


StackState = List[LayerState]


def last_inputs(memory: Optional[Tensor], x: Tensor, n: int) -> Optional[Tensor]:
    """The last n positions of memory and x, detached; None for n = 0."""
    if n == 0:
        return None
    older = n - x.size(0)
    if memory is None or older <= 0:
        return x[max(0, -older) :].detach()
    return torch.cat((memory[-older:], x)).detach()


def memory_length(state: StackState) -> int:
    """M: of how many positions before the state knows."""
    return max((len(layer.memory) for layer in state if layer.memory is not None), default=0)
