"""A stack of SRU++ layers with its memory."""

import functools
from typing import Callable, Iterable, List, Optional, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.autocast import autocast_dtype
from .attention_layers import attention_layer_indices
from .decoding import Beams, DecodingState
from .layer import SRUppLayer
from .masks import AttentionMask, causal_mask, full_mask
from .state import KeyValueCache, LayerState, StackState, last_inputs, memory_length
from .step import StackStep, step_for


class SRUppStack(nn.Module):
    """Layers of SRU++ on top of each other, all of input and output size d. `forward` compiles with TorchScript.

    Args:
        hidden_size: d.
        attention_dim: d'.
        layers: how many.
        attention_layers: 1-based indices of the layers that attend; all if None, none if empty.
        input_size: size of the input; where it is not d, a bias-free projection stands first.
        causal: a position sees no later one; False: all see all (encoder).
        dropout, heads, attention_dropout, attention_norm, query_key_norm, independent_query, alpha_init, projection,
            bidirectional, checkpoint_activations: of each layer, see SRUppLayer. `dropout` is also that of c - x in the highway connection,
            one mask for all steps, which the last layer does without.
        compiled: `forward` and `forward_segment` run the layers through torch.compile; what runs with a cache stays as it is.

    Raises:
        ValueError: sizes that do not divide, an attention layer that does not exist.
    """

    def __init__(
        self,
        hidden_size: int,
        attention_dim: int,
        layers: int,
        *,
        attention_layers: Optional[Iterable[int]] = None,
        input_size: Optional[int] = None,
        causal: bool = True,
        heads: int = 1,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        attention_norm: str = "post",
        query_key_norm: bool = False,
        independent_query: bool = False,
        alpha_init: float = 0.0,
        projection: bool = True,
        bidirectional: bool = False,
        checkpoint_activations: bool = False,
        compiled: bool = False,
    ):
        super().__init__()
        attending = attention_layer_indices(layers, explicit=attention_layers) if projection else []
        self.causal = causal
        self.hidden_size = hidden_size
        self.highway_dropout = dropout
        self.compiled = compiled
        self._step: Optional[StackStep] = None
        self.input_proj = None
        if input_size is not None and input_size != hidden_size:
            self.input_proj = nn.Linear(input_size, hidden_size, bias=False)
            nn.init.xavier_uniform_(self.input_proj.weight)
        self.layers = nn.ModuleList(
            SRUppLayer(
                hidden_size,
                attention_dim,
                attention=i in attending,
                projection=projection,
                heads=heads,
                dropout=dropout,
                attention_dropout=attention_dropout,
                attention_norm=attention_norm,
                query_key_norm=query_key_norm,
                independent_query=independent_query,
                alpha_init=alpha_init,
                bidirectional=bidirectional,
                checkpoint_activations=checkpoint_activations,
            )
            for i in range(1, layers + 1)
        )

    def forward(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        source: Optional[Tensor] = None,
        source_padding_mask: Optional[Tensor] = None,
        inner_states: Optional[List[Tensor]] = None,
    ) -> Tensor:
        """Run the stack without any memory.

        Args:
            x: (L, B, input size).
            padding_mask: bool (L, B), True at padding.
            source: (S, B, d), states that every layer attends over besides its own input (appendix B).
            source_padding_mask: bool (S, B), True at padding.
            inner_states: if given, this list gets the input of the first layer and the output of each, (L, B, d).

        Returns:
            h (L, B, d), 0 at padding.
        """
        return self._forward(x, padding_mask, source, source_padding_mask, inner_states, -1)[0]

    def forward_with_weights(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        source: Optional[Tensor] = None,
        source_padding_mask: Optional[Tensor] = None,
        inner_states: Optional[List[Tensor]] = None,
        layer: Optional[int] = None,
    ) -> Tuple[Tensor, Tensor]:
        """As `forward`. Also returns the attention probabilities (B, H, L, S + L) of `layer`, counted from 0, or of the
        last layer that attends.

        Raises:
            ValueError: that layer does not attend.
        """
        chosen = -1 if layer is None else layer
        if layer is None:
            for i, each in enumerate(self.layers):
                if each.attention:
                    chosen = i
        h, weights = self._forward(x, padding_mask, source, source_padding_mask, inner_states, chosen)
        if weights is None:
            raise ValueError(f"layer {chosen} (counted from 0) does not attend")
        return h, weights

    def _forward(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor],
        source: Optional[Tensor],
        source_padding_mask: Optional[Tensor],
        inner_states: Optional[List[Tensor]],
        weights_of: int,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        compiled = self.compiled
        if self.compiled:
            # Compiled code takes sizes of 1 for a case of its own, and so it would padding or none.
            compiled = min(x.size(0), x.size(1)) > 1 and (source is None or source.size(0) > 1)
            if padding_mask is None and (source is not None or not self.causal):
                padding_mask = torch.zeros(x.size(0), x.size(1), dtype=torch.bool, device=x.device)
            if source_padding_mask is None and source is not None:
                source_padding_mask = torch.zeros(source.size(0), source.size(1), dtype=torch.bool, device=x.device)
        x = self._input(x, padding_mask)
        length = x.size(0)
        if self.causal:
            mask = causal_mask(
                length,
                0 if source is None else source.size(0),
                padding_mask=_batch_first(padding_mask),
                source_padding_mask=_batch_first(source_padding_mask),
                device=x.device,
            )
        else:
            mask = full_mask(_batch_first(padding_mask))
        states: List[Optional[Tensor]] = []
        for _ in self.layers:
            states.append(None)
        contexts = self._source_projections(source)
        highway, keep = self._highway_masks(x), inner_states is not None
        if torch.jit.is_scripting():
            x, _, inputs, weights = self._run(x, states, contexts, mask, padding_mask, highway, keep, weights_of)
        else:
            # Lengths vary, so what is compiled serves all.
            run = _compiled(True) if compiled else SRUppStack._run
            x, _, inputs, weights = run(self, x, states, contexts, mask, padding_mask, highway, keep, weights_of)
        if inner_states is not None:
            inner_states.extend(inputs)
            inner_states.append(x)
        return x, weights

    def _run(
        self,
        x: Tensor,
        states: List[Optional[Tensor]],
        contexts: List[Optional[Tensor]],
        mask: Optional[AttentionMask],
        padding_mask: Optional[Tensor],
        highway_masks: List[Optional[Tensor]],
        keep: bool,
        weights_of: int,
    ) -> Tuple[Tensor, List[Tensor], List[Tensor], Optional[Tensor]]:
        """All layers on x (L, B, d), each with its own state, context and highway mask.

        Returns:
            h (L, B, d); of each layer the state after x and, if `keep`, its input; the attention probabilities
            (B, H, L, S + L) of layer number `weights_of`, from 0, None if that does not attend.
        """
        ends: List[Tensor] = []
        inputs: List[Tensor] = []
        weights: Optional[Tensor] = None
        for i, layer in enumerate(self.layers):
            if layer.attention:
                if i == weights_of:
                    weights = layer.transform.weights(x, contexts[i], mask)
            if keep:
                inputs.append(x)
            x, c = layer(x, states[i], context=contexts[i], mask=mask, padding_mask=padding_mask, highway_mask=highway_masks[i])
            ends.append(c)
        return x, ends, inputs, weights

    def forward_segment(
        self,
        x: Tensor,
        state: Optional[StackState] = None,
        *,
        mem_len: int,
        padding_mask: Optional[Tensor] = None,
        inner_states: Optional[List[Tensor]] = None,
    ) -> Tuple[Tensor, StackState]:
        """Run one training segment, with the inputs of the M positions before it as memory (section 4).

        Every position sees the whole memory, and its own segment up to itself. Gradients reach the projections of
        the memory, not the memory.

        Args:
            x: (L, B, input size).
            state: what the previous segment returned; None: the text begins.
            mem_len: M.
            padding_mask: bool (L, B), True at padding, which may only stand at the end of a text.
            inner_states: see `forward`.

        Returns:
            h (L, B, d), and the state after the segment, detached.

        Raises:
            ValueError: a state of another number of layers, or of `forward_cached`.
        """
        x = self._input(x, padding_mask)
        state = self._checked(state, Tensor)
        past = memory_length(state)
        mask = causal_mask(x.size(0), past, device=x.device)
        # A state of zeros rather than none: or what is compiled would be so once more, for the first segment.
        start = x.new_zeros(x.size(1), self.hidden_size, dtype=torch.promote_types(x.dtype, torch.float32))
        states = [start if c is None else c for c, _ in state]
        # A run may go on in another precision.
        memories = [None if memory is None else memory.to(x.dtype) for _, memory in state]
        contexts = [None if memory is None else layer.transform.in_proj(memory) for layer, memory in zip(self.layers, memories)]
        # What is compiled serves one length, or what computes a segment would depend on the segments before. A memory that
        # grows has too many.
        growing = 0 < past < mem_len
        run = _compiled(False) if self.compiled and not growing else SRUppStack._run
        h, ends, inputs, _ = run(self, x, states, contexts, mask, padding_mask, self._highway_masks(x), keep=True, weights_of=-1)
        if inner_states is not None:
            inner_states.extend((*inputs, h))
        return h, [
            LayerState(c.detach(), last_inputs(memory, kept, mem_len) if layer.attention else None)
            for layer, c, memory, kept in zip(self.layers, ends, memories, inputs)
        ]

    def forward_cached(
        self,
        x: Tensor,
        state: Optional[StackState] = None,
        *,
        window: Optional[int] = None,
        padding_mask: Optional[Tensor] = None,
        inner_states: Optional[List[Tensor]] = None,
    ) -> Tuple[Tensor, StackState]:
        """Run L further positions with the keys and values of all positions before kept: evaluation.

        Gradients reach these L positions, not the ones before.

        Args:
            x: (L, B, input size).
            state: what the previous call returned; None: the text begins.
            window: how many positions before itself a position sees; None: all.
            padding_mask: bool (L, B), True at padding, which may only stand at the end of a text.
            inner_states: see `forward`.

        Returns:
            h (L, B, d), and the state after the last position, detached.

        Raises:
            ValueError: a state of another number of layers, or of `forward_segment`.
        """
        x = self._input(x, padding_mask)
        state = self._checked(state, KeyValueCache)
        mask = causal_mask(x.size(0), memory_length(state), window=window, device=x.device)
        x, ends = self._run_cached(x, state, mask, inner_states, padding_mask=padding_mask)
        return x, [LayerState(c.detach(), None if cache is None else cache.last(window).detach()) for c, cache in ends]

    def forward_decoding(
        self,
        x: Tensor,
        state: DecodingState,
        *,
        window: Optional[int] = None,
        padding_mask: Optional[Tensor] = None,
        inner_states: Optional[List[Tensor]] = None,
    ) -> Tuple[Tensor, DecodingState]:
        """Run L further positions, usually one, of rows that a search may reorder.

        Where gradients are recorded they reach all positions before, whose graph the state holds.

        Args:
            x: (L, B, input size).
            state: what the previous call or `begin_decoding` returned.
            window: how many positions before itself a position sees; None: all. Not with a source.
            padding_mask: bool (L, B), True at padding, anywhere: texts of several lengths begin or end together.
            inner_states: see `forward`.

        Returns:
            h (L, B, d), 0 at padding, and the state after the last position.
        """
        if padding_mask is not None:
            padding_mask = state.beams.inward(padding_mask, 1).contiguous()
        beams, mask = state.beams.extended(x.size(0), window, padding_mask)
        x = self._input(beams.inward(x, 1), padding_mask)
        inner: Optional[List[Tensor]] = None if inner_states is None else []
        step = None
        if inner_states is None and padding_mask is None:
            step = step_for(x, self.layers, self.training, self._step)
            self._step = step or self._step
        if step is not None and step.weights is not None:
            x, ends = step(x, state.layers, mask, beams.slots.size(0))
        else:
            x, ends = self._run_cached(x, state.layers, mask, inner, beam=beams.size, padding_mask=padding_mask)
        if inner_states is not None:
            inner_states.extend(beams.outward(each, 1) for each in inner)
        return beams.outward(x, 1), DecodingState(ends, beams).last(window)

    def begin_decoding(
        self,
        sentences: int,
        beam: int = 1,
        *,
        source: Optional[Tensor] = None,
        source_padding_mask: Optional[Tensor] = None,
    ) -> DecodingState:
        """The state with which decoding begins.

        Args:
            sentences, beam: G and g, for G g rows, those of a sentence next to each other.
            source: (S, G, d), states that every attending layer attends over: their keys and values are computed here.
            source_padding_mask: bool (S, G), True at padding.
        """
        caches = [
            None if context is None else layer.transform.cache_context(context)
            for layer, context in zip(self.layers, self._source_projections(source))
        ]
        slots = torch.zeros(sentences, beam, 0, dtype=torch.long, device=next(self.parameters()).device)
        length = 0 if source is None else source.size(0)
        return DecodingState(
            [LayerState(None, cache) for cache in caches], Beams(slots, _batch_first(source_padding_mask), length)
        )

    def _run_cached(
        self,
        x: Tensor,
        state: StackState,
        mask: Optional[AttentionMask],
        inner_states: Optional[List[Tensor]],
        **kwargs,
    ) -> Tuple[Tensor, StackState]:
        ends = []
        for layer, (c, memory), highway in zip(self.layers, state, self._highway_masks(x)):
            if inner_states is not None:
                inner_states.append(x)
            x, c, cache = layer.forward_cached(x, c, memory, mask=mask, highway_mask=highway, **kwargs)
            ends.append(LayerState(c, cache))
        if inner_states is not None:
            inner_states.append(x)
        return x, ends

    def _source_projections(self, source: Optional[Tensor]) -> List[Optional[Tensor]]:
        """What each layer sees of the source (S, B, d), (S, B, d'), by one product for all that attend."""
        projections: List[Optional[Tensor]] = []
        together = True
        if not torch.jit.is_scripting():
            together = self._has_weights()
        weights: List[Tensor] = []
        for layer in self.layers:
            projections.append(None)
            if layer.attention:
                if source is not None and together:
                    weights.append(layer.transform.in_proj.weight)
                elif source is not None:
                    projections[-1] = layer.transform.in_proj(source)
        if source is None or len(weights) == 0:
            return projections
        pieces, done = F.linear(source, torch.cat(weights)).chunk(len(weights), dim=-1), 0
        for i, layer in enumerate(self.layers):
            if layer.attention:
                projections[i] = pieces[done]
                done += 1
        return projections

    def _has_weights(self) -> bool:
        """Not so in int8."""
        return all(isinstance(layer.transform.in_proj, nn.Linear) for layer in self.layers if layer.attention)

    def _highway_masks(self, x: Tensor) -> List[Optional[Tensor]]:
        """For each layer (B, d); for x (L, B, any)."""
        masks: List[Optional[Tensor]] = []
        if self.training and self.highway_dropout > 0:
            keep, wide = 1 - self.highway_dropout, torch.promote_types(x.dtype, torch.float32)
            drawn = torch.empty(len(self.layers), x.size(1), self.hidden_size, dtype=wide, device=x.device)
            drawn.bernoulli_(keep).div_(keep)[-1] = 1
            for mask in drawn.unbind(0):
                masks.append(mask)
        else:
            for _ in self.layers:
                masks.append(None)
        return masks

    def _input(self, x: Tensor, padding_mask: Optional[Tensor]) -> Tensor:
        if self.input_proj is not None:
            x = self.input_proj(x)
        if not torch.jit.is_scripting():
            dtype = autocast_dtype(x.device.type)
            if dtype is not None:  # the layers would cast it, and keep it for the memory as it is
                x = x.to(dtype)
        return x if padding_mask is None else x.masked_fill(padding_mask.unsqueeze(-1), 0)

    def _checked(self, state: Optional[StackState], memory: Type) -> StackState:
        if state is None:
            return [LayerState()] * len(self.layers)
        if len(state) != len(self.layers):
            raise ValueError(f"state has {len(state)} layers, expected {len(self.layers)}")
        if not all(isinstance(layer.memory, (memory, type(None))) for layer in state):
            raise ValueError("a state of forward_segment goes on in forward_segment, one of forward_cached in forward_cached")
        return state


@functools.cache
def _compiled(dynamic: bool) -> Callable:
    """`SRUppStack._run` through torch.compile, for inputs of all sizes, or compiled anew for each."""
    return torch.compile(SRUppStack._run, dynamic=dynamic)


def _batch_first(mask: Optional[Tensor]) -> Optional[Tensor]:
    return None if mask is None else mask.t()
