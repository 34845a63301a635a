"""A decoding step of a stack on a CPU, by the operator that runs all layers (ops/step.py)."""

from typing import Iterable, List, Optional, Tuple

import torch
from torch import Tensor, nn

from ..ops import step
from ..ops.autocast import autocast_dtype
from .int8 import Int8Linear
from .layer import SRUppLayer
from .masks import AttentionMask
from .state import KeyValueCache, LayerState, StackState
from .transform import LinearTransform

DTYPES = (torch.float32, torch.bfloat16)


class StackStep:
    """A stack's layers as the operator takes them.

    Args:
        layers: all alike, but for whether they attend. Matrices are theirs, not copies; in int8 a copy.

    Raises:
        TypeError: matrices of a kind that the operator does not know, or modules with hooks.
    """

    def __init__(self, layers: Iterable[SRUppLayer]):
        self.layers = list(layers)
        self.weights: List[Tensor] = []
        self.norm, self.query_key_norm = "none", False
        for layer in self.layers:
            if any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules()):
                raise TypeError("a decoding step calls no hooks")
            self.weights.extend(self._of(layer))

    def _of(self, layer: SRUppLayer) -> List[Tensor]:
        transform, none = layer.transform, torch.empty(0)
        in_proj = query_proj = kv_proj = none
        numbers: List[Tensor] = []
        out_proj, out_scale = _matrix(transform.out_proj)
        if not isinstance(transform, LinearTransform):
            in_proj, scale = _matrix(transform.in_proj)
            numbers.append(scale)
            self.norm = transform.attention_norm
            norm = [] if self.norm == "none" else [transform.norm.weight, transform.norm.bias]
            if layer.attention:
                numbers += norm if self.norm == "pre" else []
                if not isinstance(transform.query_proj, nn.Identity):
                    query_proj, scale = _matrix(transform.query_proj)
                    numbers.append(scale)
                kv_proj, scale = _matrix(transform.kv_proj)
                numbers.append(scale)
                self.query_key_norm = not isinstance(transform.query_norm, nn.Identity)
                if self.query_key_norm:
                    numbers += [transform.query_norm.weight, transform.key_norm.weight]
                numbers.append(transform.alpha)
            if self.norm == "post" or not layer.attention:
                numbers += norm
        numbers += [out_scale, layer.weight_c, layer.bias]
        packed = torch.cat([each.detach().float().flatten() for each in numbers])
        return [in_proj, query_proj, kv_proj, out_proj, packed]

    def __call__(
        self, x: Tensor, state: StackState, mask: Optional[AttentionMask], sentences: int
    ) -> Tuple[Tensor, StackState]:
        """x (1, B, d) through all layers; mask: of B / G queries in each of G sentences.

        Returns:
            h (1, B, d) and the layers' states after the step.
        """
        none, beam = x.new_empty(0), x.size(1) // sentences
        caches: List[Optional[KeyValueCache]] = []
        for layer, (_, cache) in zip(self.layers, state):
            if layer.attention:
                cache = KeyValueCache() if cache is None else cache
                cache = cache.longer(none, (sentences, layer.transform.heads, beam, layer.transform.head_size))
            caches.append(cache)
        positions = max((len(cache) for cache in caches if cache is not None), default=0)
        h, c = step.decoding_step(
            x[0].float().contiguous(),
            self.weights,
            [] if state[0].c is None else [c for c, _ in state],
            [none if cache is None else cache.buffer for cache in caches],
            [0 if cache is None else cache.start for cache in caches],
            positions,
            none if mask is None else mask.allowed.contiguous(),
            self.norm,
            self.query_key_norm,
        )
        return h.to(x.dtype).unsqueeze(0), [LayerState(*each) for each in zip(c.unbind(0), caches)]


def step_for(x: Tensor, layers: Iterable[SRUppLayer], training: bool, known: Optional[StackStep]) -> Optional[StackStep]:
    """What runs x (L, B, d) through layers, `known` if that was made of them before; None where the operator cannot."""
    if (
        x.size(0) != 1
        or x.size(1) == 0
        or x.device.type != "cpu"
        or x.dtype not in DTYPES
        or training
        or torch.is_grad_enabled()
        or autocast_dtype("cpu") is not None
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or not step.available()
    ):
        return None
    try:
        known = known or StackStep(layers)
    except TypeError:
        return None
    return known if step.products_in(known.weights[3].dtype, x.size(1)) else None


def _matrix(linear: nn.Module) -> Tuple[Tensor, Tensor]:
    """The weights (N, K) of a linear layer and their scales (N,)."""
    if isinstance(linear, Int8Linear):
        return linear.rows()
    if type(linear) is not nn.Linear or linear.weight.dtype not in DTYPES:
        raise TypeError(f"a decoding step cannot run {type(linear).__name__}")
    return linear.weight.detach().contiguous(), torch.ones(linear.out_features)
