"""What decoding step by step carries from one step to the next, for the rows of a beam search.

The rows of one sentence, its beam, share a cache: each writes the keys and values of its tokens into a slot of its own,
and a mask says which slots hold a row's own past. So the source's keys and values are there once per sentence, and when
beams are reordered, or one continues twice, only numbers of slots move, not the cache.
"""

from typing import List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor

from .masks import AttentionMask
from .state import KeyValueCache, LayerState, StackState


class Beams(NamedTuple):
    """Whose past is where, for B = G g rows, g to a sentence.

    slots: int64 (G, g, T): in which slot of its sentence the token of a row at each of T steps was written.
    source_padding: bool (G, S), True at padding; None without a source or padding in it.
    source_length: S, 0 without a source.
    """

    slots: Tensor
    source_padding: Optional[Tensor] = None
    source_length: int = 0

    @property
    def size(self) -> int:
        """g."""
        return self.slots.size(1)

    def extended(self, length: int, window: Optional[int]) -> Tuple["Beams", Optional[AttentionMask]]:
        """These rows `length` tokens later, and who sees whom meanwhile.

        Args:
            length: L.
            window: how many positions before itself a position sees; None: all.

        Returns:
            The rows with their newest tokens in their own slots, and a mask (G, 1, L g, S + (T + L) g) of queries and
            keys in the order of steps, the g slots of a step next to each other; None where all is seen.
        """
        groups, g, past = self.slots.shape
        device = self.slots.device
        own = torch.arange(g, device=device).view(1, g, 1).expand(groups, g, length)
        slots = torch.cat((self.slots, own), 2)
        beams = self._replace(slots=slots)
        keys = past + length
        windowed = window is not None and window < keys - 1
        if g == 1 and length == 1 and not windowed and self.source_padding is None:
            return beams, None
        own_past = slots.unsqueeze(-1) == torch.arange(g, device=device)  # (G, g, T + L, g): row, step, slot
        query = torch.arange(past, keys, device=device).view(-1, 1)
        key = torch.arange(keys, device=device)
        in_reach = key <= query if not windowed else (key <= query) & (key >= query - window)  # (L, T + L)
        target = own_past.unsqueeze(1) & in_reach.view(1, length, 1, keys, 1)
        target = target.reshape(groups, length * g, keys * g)
        if self.source_length == 0:
            return beams, AttentionMask(target.unsqueeze(1))
        source = target.new_ones(groups, self.source_length)
        if self.source_padding is not None:
            source = ~self.source_padding
        source = source.unsqueeze(1).expand(-1, length * g, -1)
        return beams, AttentionMask(torch.cat((source, target), 2).unsqueeze(1))


class DecodingState(NamedTuple):
    """The state of a stack between two steps.

    layers: the recurrent state c (B, d) of the rows, and for each layer that attends the cache of the G sentences, whose
        positions are the S of the source and then g for each step.
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
        """Let row i continue what row order[i] has seen; order: int64 (B',)."""
        g = self.beams.size
        if order.numel() % g:
            return self._apart().reorder(order)
        sentences = order.reshape(-1, g) // g
        same = sentences.size(0) == self.beams.slots.size(0)
        stay = sentences[:, :1]
        # one question to the device instead of two
        within, in_place = torch.stack(
            (
                (sentences == stay).all(),
                (stay.squeeze(1) == torch.arange(len(stay), device=order.device)).all(),
            )
        ).tolist()
        if not within:
            return self._apart().reorder(order)
        stay = None if same and in_place else stay.squeeze(1)
        slots = self.beams.slots.flatten(0, 1).index_select(0, order).unflatten(0, (-1, g))
        padding = self.beams.source_padding
        if padding is not None and stay is not None:
            padding = padding.index_select(0, stay)
        layers = [
            LayerState(
                None if layer.c is None else layer.c.index_select(0, order),
                layer.memory if stay is None or layer.memory is None else layer.memory.reorder(stay),
            )
            for layer in self.layers
        ]
        return DecodingState(layers, self.beams._replace(slots=slots, source_padding=padding))

    def _apart(self) -> "DecodingState":
        """The same with a cache for each row, for rows that leave their sentence or its beam."""
        g, slots, source = self.beams.size, self.beams.slots, self.beams.source_length
        if g == 1:
            return self
        steps = torch.arange(slots.size(2), device=slots.device) * g
        places = torch.cat(  # (G, g, S + T): positions in the sentence's cache
            (torch.arange(source, device=slots.device).expand(*slots.shape[:2], -1), source + steps + slots), 2
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
                slots.new_zeros(slots.size(0) * g, 1, slots.size(2)),
                None if padding is None else padding.repeat_interleave(g, 0),
                source,
            ),
        )


def _gathered(positions: Tensor, places: Tensor) -> Tensor:
    """positions (G, H, P, d'/H) at places (G, g, P'), a copy for each row: (G g, H, P', d'/H)."""
    groups, g, count = places.shape
    index = places.view(groups, g, 1, count, 1).expand(-1, -1, positions.size(1), -1, positions.size(3))
    return positions.unsqueeze(1).expand(-1, g, -1, -1, -1).gather(3, index).flatten(0, 1)
