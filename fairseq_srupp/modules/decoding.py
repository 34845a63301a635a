"""What decoding step by step carries from one step to the next, for the rows of a beam search.

The rows of one sentence, its beam, share a cache: each writes the keys and values of its tokens into a slot of its own,
and a mask says which slots hold a row's own past. So the source's keys and values are there once per sentence, and when
beams are reordered, or one continues twice, only numbers of slots move, not the cache. When sentences are left out, the
last ones of the cache take their places, and the others stay: the cache may hold them in another order than the caller.

An example: sentences A, B and C (G = 3) with two rows each (g = 2), and no source. The rows are A0 A1 B0 B1 C0 C1.

>>> state = DecodingState([], Beams(torch.zeros(3, 2, 0, dtype=torch.long)))  # no layers: slots need none
>>> def step(state):
...     beams, mask = state.beams.extended(1, None)
...     return state._replace(beams=beams), mask.allowed[:, 0].int()  # (G, 1, L g, T g) to (G, g, T g)

Step 1: a row writes into the slot of its own number.

>>> state, sees = step(state)
>>> state.beams.slots.tolist()  # (3, 2, 1): sentence, row, step
[[[0], [1]], [[0], [1]], [[0], [1]]]

The search continues A0 as both rows of A and exchanges the rows of B. The caches stay, the slots go with the rows.

>>> state = state.reorder(torch.tensor([0, 0, 3, 2, 4, 5]))
>>> state.beams.slots.tolist()
[[[0], [0]], [[1], [0]], [[0], [1]]]

Step 2: the cache of a sentence has T g = 4 positions, which are slots 0 and 1 of step 1, then slots 0 and 1 of step 2.
Both rows of A see position 0, and then their own. Position 1 is seen by nobody any more.

>>> state, sees = step(state)
>>> state.beams.slots.tolist()
[[[0, 0], [0, 1]], [[1, 0], [0, 1]], [[0, 0], [1, 1]]]
>>> sees[0].tolist()  # (2, 4): rows of A, positions
[[1, 0, 1, 0], [1, 0, 0, 1]]

A is finished: the caller has B and C. In the cache C, which was last, takes A's place, so the order there is C, B. The
caller's sentence 0 stands in place 1, its sentence 1 in place 0.

>>> state = state.reorder(torch.tensor([2, 3, 4, 5]))
>>> state.beams.slots.tolist()
[[[0, 0], [1, 1]], [[1, 0], [0, 1]]]
>>> state.beams.places.tolist()
[1, 0]

What comes from the caller for B0 B1 C0 C1 is put in the order of the cache, and the results back.

>>> state.beams.inward(torch.tensor([20, 21, 30, 31]), 0).tolist()
[30, 31, 20, 21]
>>> state.beams.outward(torch.tensor([30, 31, 20, 21]), 0).tolist()
[20, 21, 30, 31]

Step 3: B0, in place 1, sees what it has written now and in step 2, and what the other row wrote in step 1.

>>> state, sees = step(state)
>>> state.beams.slots[1].tolist(), sees[1].tolist()
([[1, 0, 0], [0, 1, 1]], [[0, 1, 1, 0, 1, 0], [1, 0, 0, 1, 0, 1]])
"""

from typing import Callable, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .masks import AttentionMask, causal_mask
from .state import KeyValueCache, LayerState, StackState


class Beams(NamedTuple):
    """Whose past is where, for B = G g rows, g to a sentence; sentences in the order of the cache.

    slots: int64 (G, g, T): in which slot of its sentence the token of a row at each of T steps was written; -1: it was
        padding, which nobody sees.
    source_padding: bool (G, S), True at padding; None without a source or padding in it.
    source_length: S, 0 without a source.
    places: int64 (G,), where the caller's sentences stand in the cache; None: in the same order.
    padded: whether a slot may be -1.
    """

    slots: Tensor
    source_padding: Optional[Tensor] = None
    source_length: int = 0
    places: Optional[Tensor] = None
    padded: bool = False

    @property
    def size(self) -> int:
        """g."""
        return self.slots.size(1)

    def inward(self, t: Tensor, dim: int) -> Tensor:
        """t, whose dimension `dim` is B, from the caller's order into that of the cache."""
        if self.places is None:
            return t
        t = t.unflatten(dim, (-1, self.size))  # (..., G, g, ...)
        return torch.empty_like(t).index_copy_(dim, self.places, t).flatten(dim, dim + 1)  # sentence i to places[i]

    def outward(self, t: Tensor, dim: int) -> Tensor:
        """The inverse of `inward`."""
        if self.places is None:
            return t
        # (..., G g, ...) to (..., G, g, ...): sentence i from places[i], and back to (..., G g, ...)
        return t.unflatten(dim, (-1, self.size)).index_select(dim, self.places).flatten(dim, dim + 1)

    def rows(self, numbers: Tensor) -> Tensor:
        """The caller's numbers of rows, int64 (any,), as the cache counts them."""
        if self.places is None:
            return numbers
        # row r of the caller: sentence r // g, row r % g of its beam
        return self.places.index_select(0, numbers // self.size) * self.size + numbers % self.size

    def extended(
        self, length: int, window: Optional[int], padding: Optional[Tensor] = None
    ) -> Tuple["Beams", Optional[AttentionMask]]:
        """These rows `length` tokens later, and who sees whom meanwhile.

        Args:
            length: L.
            window: how many positions before itself a position sees; None: all.
            padding: bool (L, B), True at padding, in the order of the cache.

        Returns:
            The rows with their newest tokens in their own slots, and a mask (G, 1, L g, S + (T + L) g) of queries and
            keys in the order of steps, the g slots of a step next to each other; None where all is seen.
        """
        groups, g, past = self.slots.shape  # G, g, T
        device = self.slots.device
        own = torch.arange(g, device=device).view(1, g, 1).expand(groups, g, length)  # (G, g, L): row i in slot i
        if padding is not None:
            own = own.masked_fill(padding.t().unflatten(0, (groups, g)), -1)  # (L, B) to (B, L) to (G, g, L)
        slots = torch.cat((self.slots, own), 2)  # (G, g, T + L)
        beams = self._replace(slots=slots, padded=self.padded or padding is not None)
        keys = past + length  # T + L
        windowed = window is not None and window < keys - 1
        if g == 1 and self.source_padding is None and not beams.padded:
            return beams, causal_mask(length, self.source_length + past, window, device=device)
        own_past = slots.unsqueeze(-1) == torch.arange(g, device=device)  # (G, g, T + L, g): row, step, slot
        query = torch.arange(past, keys, device=device).view(-1, 1)  # (L, 1): the steps T to T + L - 1
        key = torch.arange(keys, device=device)  # (T + L,)
        in_reach = key <= query if not windowed else (key <= query) & (key >= query - window)  # (L, T + L)
        # (G, 1, g, T + L, g) & (1, L, 1, T + L, 1): sentence, query's step, query's row, key's step, key's slot
        target = own_past.unsqueeze(1) & in_reach.view(1, length, 1, keys, 1)  # (G, L, g, T + L, g)
        target = target.reshape(groups, length * g, keys * g)  # (G, L g, (T + L) g)
        if beams.padded:  # a padded query sees itself, so that no softmax is empty; nothing reads its result
            # query i is key T g + i
            target = target | torch.eye(length * g, keys * g, dtype=torch.bool, device=device).roll(past * g, 1)
        if self.source_length == 0:
            return beams, AttentionMask(target.unsqueeze(1))  # (G, 1, L g, (T + L) g)
        source = target.new_ones(groups, self.source_length)  # (G, S)
        if self.source_padding is not None:
            source = ~self.source_padding
        source = source.unsqueeze(1).expand(-1, length * g, -1)  # (G, L g, S)
        return beams, AttentionMask(torch.cat((source, target), 2).unsqueeze(1))  # (G, 1, L g, S + (T + L) g)


class DecodingState(NamedTuple):
    """The state of a stack between two steps.

    layers: the recurrent state c (B, d) of the rows, in the order of the cache, and for each layer that attends the
        cache of the G sentences, whose positions are the S of the source and then g for each step.
    beams: which of them are whose.
    """

    layers: StackState
    beams: Beams

    def last(self, window: Optional[int]) -> "DecodingState":
        """Only the last `window` steps; all of them for None. Not with a source."""
        steps = self.beams.slots.size(2)
        if window is None or steps <= window:
            return self
        slots = self.beams.slots[:, :, steps - window :]  # (G, g, T) to (G, g, window)
        layers = [
            layer if layer.memory is None else layer._replace(memory=layer.memory.last(window * self.beams.size))
            for layer in self.layers
        ]
        return self._replace(layers=layers, beams=self.beams._replace(slots=slots))

    def reorder(self, order: Tensor) -> "DecodingState":
        """Let row i continue what row order[i] has seen; order: int64 (B',).

        Where whole sentences are left out, no more sentences are copied than that, and this state is spent: its caches
        went over to the new one. Where one sentence is continued as two, or rows leave its beam, all is copied. Where nothing
        moves this state itself is returned.
        """
        asked, order, g = order, self.beams.rows(order), self.beams.size  # order: (B',), the cache's numbers of rows
        if order.numel() % g:
            return self._apart().reorder(order)
        sentences = order.reshape(-1, g) // g  # (G', g): of each new row, the sentence that it continues
        stay = sentences[:, 0]  # (G',)
        within = (sentences == sentences[:, :1]).all()  # all rows of a beam continue one sentence
        moved = (asked != torch.arange(asked.numel(), device=asked.device)).any()
        *old, within, moved = torch.cat((stay, within.view(1), moved.view(1))).tolist()  # the only question to the device
        if not moved and len(old) == self.beams.slots.size(0):
            return self
        if not within:
            return self._apart().reorder(order)
        kept = len(old)  # G'; old[i] is where the caller's new sentence i stands in the cache
        if len(set(old)) < kept:  # one sentence continues as two
            return self._select(order, stay, None, lambda cache: cache.reorder(stay))
        # The cache keeps places 0 to G' - 1. Sentences behind them move to the places of those that are left out.
        moves = dict(zip([i for i in old if i >= kept], sorted(set(range(kept)).difference(old))))
        new = [moves.get(i, i) for i in old]  # where they stand afterwards
        places = torch.tensor(new, device=order.device) if moves else stay
        if new == list(range(kept)):
            places = None
        order = self.beams._replace(places=places).inward(order, 0)  # (G' g,): now in the cache's new order
        if kept == self.beams.slots.size(0):  # no sentence is left out: the caches stay as they are
            return self._select(order, None, places, lambda cache: cache)
        return self._select(order, order[::g] // g, places, lambda cache: cache.keep(kept, moves))

    def _select(
        self,
        order: Tensor,
        stay: Optional[Tensor],
        places: Optional[Tensor],
        select: Callable[[KeyValueCache], KeyValueCache],
    ) -> "DecodingState":
        """The rows `order` (B',) and sentences `stay` (G',), None for all, both as the cache counts them."""
        # (G, g, T) to (G g, T) to (B', T) to (G', g, T)
        slots = self.beams.slots.flatten(0, 1).index_select(0, order).unflatten(0, (-1, self.beams.size))
        padding = self.beams.source_padding
        if padding is not None and stay is not None:
            padding = padding.index_select(0, stay)  # (G', S)
        layers = [  # c: (B, d) to (B', d)
            LayerState(None if c is None else c.index_select(0, order), None if cache is None else select(cache))
            for c, cache in self.layers
        ]
        beams = self.beams._replace(slots=slots, source_padding=padding, places=places)
        return self._replace(layers=layers, beams=beams)

    def _apart(self) -> "DecodingState":
        """The same with a cache for each row, all in the order of this cache, for rows that leave their sentence or its
        beam."""
        g, slots, source = self.beams.size, self.beams.slots, self.beams.source_length
        steps = torch.arange(slots.size(2), device=slots.device) * g  # (T,): each step's slot 0, behind the source
        places = torch.cat(  # (G, g, S + T): positions in the sentence's cache
            (torch.arange(source, device=slots.device).expand(*slots.shape[:2], -1), source + steps + slots.clamp(min=0)), 2
        )
        layers: List[LayerState] = []
        for layer in self.layers:
            cache = layer.memory  # keys and values (G, H, S + T g, d'/H), then (G g, H, S + T, d'/H)
            if cache is not None:
                cache = KeyValueCache().append(_gathered(cache.keys, places), _gathered(cache.values, places))
            layers.append(LayerState(layer.c, cache))
        padding = self.beams.source_padding
        return DecodingState(
            layers,
            Beams(
                slots.clamp(max=0).view(slots.size(0) * g, 1, slots.size(2)),  # (G g, 1, T): slot 0, or -1 as before
                None if padding is None else padding.repeat_interleave(g, 0),  # (G g, S)
                source,
                padded=self.beams.padded,
            ),
        )


def _gathered(positions: Tensor, places: Tensor) -> Tensor:
    """positions (G, H, P, d'/H) at places (G, g, P'), a copy for each row: (G g, H, P', d'/H)."""
    groups, g, count = places.shape  # G, g, P'
    # (G, g, 1, P', 1) to (G, g, H, P', d'/H)
    index = places.view(groups, g, 1, count, 1).expand(-1, -1, positions.size(1), -1, positions.size(3))
    # (G, 1, H, P, d'/H) to (G, g, H, P, d'/H) to (G, g, H, P', d'/H) to (G g, H, P', d'/H)
    return positions.unsqueeze(1).expand(-1, g, -1, -1, -1).gather(3, index).flatten(0, 1)
