"""What decoding step by step carries from one step to the next, for the rows of a beam search.

The rows of one sentence, its beam, share a cache: each writes the keys and values of its tokens into a slot of its own,
and a mask says which slots hold a row's own past. So the source's keys and values are there once per sentence, and when
beams are reordered, or one continues twice, only numbers of slots move, not the cache. When sentences are left out, the
last ones of the cache take their places, and the others stay: the cache may hold them in another order than the caller.
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
        t = t.unflatten(dim, (-1, self.size))
        return torch.empty_like(t).index_copy_(dim, self.places, t).flatten(dim, dim + 1)

    def outward(self, t: Tensor, dim: int) -> Tensor:
        """The inverse of `inward`."""
        if self.places is None:
            return t
        return t.unflatten(dim, (-1, self.size)).index_select(dim, self.places).flatten(dim, dim + 1)

    def rows(self, numbers: Tensor) -> Tensor:
        """The caller's numbers of rows, int64 (any,), as the cache counts them."""
        if self.places is None:
            return numbers
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
        groups, g, past = self.slots.shape
        device = self.slots.device
        own = torch.arange(g, device=device).view(1, g, 1).expand(groups, g, length)
        if padding is not None:
            own = own.masked_fill(padding.t().unflatten(0, (groups, g)), -1)
        slots = torch.cat((self.slots, own), 2)
        beams = self._replace(slots=slots, padded=self.padded or padding is not None)
        keys = past + length
        windowed = window is not None and window < keys - 1
        if g == 1 and self.source_padding is None and not beams.padded:
            return beams, causal_mask(length, self.source_length + past, window, device=device)
        own_past = slots.unsqueeze(-1) == torch.arange(g, device=device)  # (G, g, T + L, g): row, step, slot
        query = torch.arange(past, keys, device=device).view(-1, 1)
        key = torch.arange(keys, device=device)
        in_reach = key <= query if not windowed else (key <= query) & (key >= query - window)  # (L, T + L)
        target = own_past.unsqueeze(1) & in_reach.view(1, length, 1, keys, 1)
        target = target.reshape(groups, length * g, keys * g)
        if beams.padded:  # a padded query sees itself, so that no softmax is empty; nothing reads its result
            target = target | torch.eye(length * g, keys * g, dtype=torch.bool, device=device).roll(past * g, 1)
        if self.source_length == 0:
            return beams, AttentionMask(target.unsqueeze(1))
        source = target.new_ones(groups, self.source_length)
        if self.source_padding is not None:
            source = ~self.source_padding
        source = source.unsqueeze(1).expand(-1, length * g, -1)
        return beams, AttentionMask(torch.cat((source, target), 2).unsqueeze(1))


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
        if window is None:
            return self
        keep = min(window, self.beams.slots.size(2))
        slots = self.beams.slots[:, :, self.beams.slots.size(2) - keep :]
        layers = [
            layer if layer.memory is None else layer._replace(memory=layer.memory.last(window * self.beams.size))
            for layer in self.layers
        ]
        return DecodingState(layers, self.beams._replace(slots=slots))

    def reorder(self, order: Tensor) -> "DecodingState":
        """Let row i continue what row order[i] has seen; order: int64 (B',).

        Where whole sentences are left out, no more sentences are copied than that, and this state is spent: its caches
        went over to the new one. Where one sentence is continued as two, or rows leave its beam, all is copied.
        """
        order, g = self.beams.rows(order), self.beams.size
        if order.numel() % g:
            return self._apart().reorder(order)
        sentences = order.reshape(-1, g) // g
        stay = sentences[:, 0]
        within = (sentences == sentences[:, :1]).all()
        *old, within = torch.cat((stay, within.view(1))).tolist()  # the only question to the device
        if not within:
            return self._apart().reorder(order)
        kept = len(old)
        if len(set(old)) < kept:
            return self._select(order, stay, None, lambda cache: cache.reorder(stay))
        moves = dict(zip([i for i in old if i >= kept], sorted(set(range(kept)).difference(old))))
        new = [moves.get(i, i) for i in old]
        places = torch.tensor(new, device=order.device) if moves else stay
        if new == list(range(kept)):
            places = None
        order = self.beams._replace(places=places).inward(order, 0)
        if kept == self.beams.slots.size(0):
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
        slots = self.beams.slots.flatten(0, 1).index_select(0, order).unflatten(0, (-1, self.beams.size))
        padding = self.beams.source_padding
        if padding is not None and stay is not None:
            padding = padding.index_select(0, stay)
        layers = [
            LayerState(None if c is None else c.index_select(0, order), None if cache is None else select(cache))
            for c, cache in self.layers
        ]
        beams = self.beams._replace(slots=slots, source_padding=padding, places=places)
        return DecodingState(layers, beams)

    def _apart(self) -> "DecodingState":
        """The same with a cache for each row, all in the order of this cache, for rows that leave their sentence or its
        beam."""
        g, slots, source = self.beams.size, self.beams.slots, self.beams.source_length
        steps = torch.arange(slots.size(2), device=slots.device) * g
        places = torch.cat(  # (G, g, S + T): positions in the sentence's cache
            (torch.arange(source, device=slots.device).expand(*slots.shape[:2], -1), source + steps + slots.clamp(min=0)), 2
        )
        layers: List[LayerState] = []
        for layer in self.layers:
            cache = layer.memory
            if cache is not None:
                cache = KeyValueCache().append(_gathered(cache.keys, places), _gathered(cache.values, places))
            layers.append(LayerState(layer.c, cache))
        padding = self.beams.source_padding
        return DecodingState(
            layers,
            Beams(
                slots.clamp(max=0).view(slots.size(0) * g, 1, slots.size(2)),
                None if padding is None else padding.repeat_interleave(g, 0),
                source,
                padded=self.beams.padded,
            ),
        )


def _gathered(positions: Tensor, places: Tensor) -> Tensor:
    """positions (G, H, P, d'/H) at places (G, g, P'), a copy for each row: (G g, H, P', d'/H)."""
    groups, g, count = places.shape
    index = places.view(groups, g, 1, count, 1).expand(-1, -1, positions.size(1), -1, positions.size(3))
    return positions.unsqueeze(1).expand(-1, g, -1, -1, -1).gather(3, index).flatten(0, 1)
