"""A decoding step of a stack on a CPU, by the operator that runs all layers (ops/step.py)."""

from typing import Any, Iterable, List, Optional, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ..ops import step
from ..ops.autocast import autocast_dtype
from ..ops.transforms import in_transform
from .int8 import Int8Linear
from .layer import SRUppLayer
from .masks import AttentionMask
from .state import KeyValueCache, LayerState, StackState
from .transform import AttentionTransform, LinearTransform, ProjectedTransform, RMSNorm

DTYPES = (torch.float32, torch.bfloat16)


class StackStep:
    """A stack's layers as the operator takes them.

    Weights are the layers' own where they can be, numbers besides matrices are copied, and so are matrices in int8. `fits` tells
    whether all is still as it was then. A copy or a pickle of this is None: it is made anew where it is needed.

    Args:
        layers: of one kind, but for whether they attend.
    """

    weights: Optional[List[Tensor]]
    """Five tensors for each layer; None where the operator cannot run these layers."""

    def __init__(self, layers: Iterable[SRUppLayer]):
        self.layers = list(layers)
        self.norm, self.query_key_norm = None, None
        self._modules = [module for layer in self.layers for module in layer.modules()]
        self._members = [
            (members, name, member)
            for module in self._modules
            for members in (module._modules, module._parameters)
            for name, member in members.items()
        ]
        parameters = [member for _, _, member in self._members if isinstance(member, Tensor)]
        self._parameters = [(parameter, parameter.data_ptr(), _version(parameter)) for parameter in parameters]
        self._were_hooked = self._hooked()
        try:
            self.weights = [weight for layer in self.layers for weight in self._of(layer)]
        except TypeError:
            self.weights = None

    def fits(self, layers: List[SRUppLayer]) -> bool:
        """Whether this was made of these layers with these weights; what somebody changes by way of `.data` is not seen."""
        return (
            len(self.layers) == len(layers)
            and all(own is layer for own, layer in zip(self.layers, layers))
            and all(members.get(name) is member for members, name, member in self._members)
            and all(p.data_ptr() == place and _version(p) == version for p, place, version in self._parameters)
            and self._hooked() == self._were_hooked
        )

    def _hooked(self) -> bool:
        return any(_altered(module) for module in self._modules)

    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> Tuple[Any, Tuple[()]]:
        return type(None), ()

    def _of(self, layer: SRUppLayer) -> List[Tensor]:
        """The weights of a layer. Raises TypeError for modules whose computation the operator does not know."""
        transform, none = layer.transform, torch.empty(0)
        _check(layer, SRUppLayer)
        _check(transform, AttentionTransform, ProjectedTransform, LinearTransform)
        in_proj = query_proj = kv_proj = none
        numbers: List[Tensor] = []
        out_proj, out_scale = _matrix(transform.out_proj)
        if not isinstance(transform, LinearTransform):
            in_proj, scale = _matrix(transform.in_proj)
            numbers.append(scale)
            self.norm = _same(self.norm, transform.attention_norm)
            norm = [] if self.norm == "none" else _norm(transform.norm, nn.LayerNorm, 1e-5)
            if layer.attention:
                numbers += norm if self.norm == "pre" else []
                if not isinstance(transform.query_proj, nn.Identity):
                    query_proj, scale = _matrix(transform.query_proj)
                    numbers.append(scale)
                kv_proj, scale = _matrix(transform.kv_proj)
                numbers.append(scale)
                self.query_key_norm = _same(self.query_key_norm, not isinstance(transform.query_norm, nn.Identity))
                for gain in (transform.query_norm, transform.key_norm) if self.query_key_norm else ():
                    numbers += _norm(gain, RMSNorm, 1e-6)
                numbers.append(transform.alpha)
            if self.norm == "post" or not layer.attention:
                numbers += norm
        numbers += [out_scale, layer.weight_c, layer.bias]
        packed = torch.cat([each.detach().float().flatten() for each in numbers])
        if packed.device.type != "cpu":
            raise TypeError("a decoding step runs on a CPU")
        return [in_proj, query_proj, kv_proj, out_proj, packed]

    def __call__(self, x: Tensor, state: StackState, mask: Optional[AttentionMask], sentences: int) -> Tuple[Tensor, StackState]:
        """x (1, B, d) through all layers; mask: of B / G queries in each of G sentences.

        Returns:
            h (1, B, d) and the layers' states after the step.
        """
        none, beam = x.new_empty(0), x.size(1) // sentences
        caches: List[Optional[KeyValueCache]] = []
        for layer, (_, cache) in zip(self.layers, state):
            if layer.attention:
                cache = KeyValueCache() if cache is None else cache
                heads, size = layer.transform.heads, layer.transform.kv_proj.out_features // 2
                cache = cache.longer(none, (sentences, heads, beam, size // heads))
            caches.append(cache)
        positions = max((len(cache) for cache in caches if cache is not None), default=0)
        h, c = step.decoding_step(
            x[0].float().contiguous(),
            self.weights,
            [] if state[0].c is None else [c for c, _ in state],
            [none if cache is None else cache.buffer for cache in caches],
            [0 if cache is None else cache.start for cache in caches],
            positions,
            none if mask is None or positions == 0 else mask.allowed.expand(sentences, 1, beam, positions).contiguous(),
            self.norm or "none",
            bool(self.query_key_norm),
        )
        return h.to(x.dtype).unsqueeze(0), [LayerState(*each) for each in zip(c.unbind(0), caches)]


def step_for(x: Tensor, layers: List[SRUppLayer], training: bool, known: Optional[StackStep]) -> Optional[StackStep]:
    """What can run x (L, B, d) through layers: `known` if it fits, or a new one, whose weights are None where the operator
    cannot run these layers. None where it cannot run this x."""
    if (
        x.size(0) != 1
        or x.size(1) == 0
        or x.device.type != "cpu"
        or x.dtype not in DTYPES
        or type(x) is not Tensor
        or training
        or torch.is_grad_enabled()
        or autocast_dtype("cpu") is not None
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or in_transform()
        or torch_module._has_any_global_hook()
        or not step.available()
        or not step.products_in(torch.int8 if isinstance(layers[0].transform.out_proj, Int8Linear) else x.dtype, x.size(1))
    ):
        return None
    return known if known is not None and known.fits(layers) else StackStep(layers)


def _check(module: nn.Module, *kinds: type) -> None:
    """Raises TypeError unless a module is of one of these kinds, as it was written."""
    if type(module) not in kinds or _altered(module):
        raise TypeError(f"a decoding step cannot run {type(module).__name__}")


def _altered(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _same(known: Any, value: Any) -> Any:
    if known not in (None, value):
        raise TypeError("a decoding step runs layers of one kind")
    return value


def _norm(module: nn.Module, kind: type, eps: float) -> List[Tensor]:
    """The gain of a norm, and its bias if this kind has one."""
    _check(module, kind)
    numbers = [module.weight] if kind is RMSNorm else [module.weight, module.bias]
    if module.eps != eps or any(number is None for number in numbers):
        raise TypeError("a decoding step knows the norms of AttentionTransform alone")
    return numbers


def _matrix(linear: nn.Module) -> Tuple[Tensor, Tensor]:
    """The weights (N, K) of a linear layer and their scales (N,)."""
    _check(linear, nn.Linear, Int8Linear)
    if linear.bias is not None:
        raise TypeError("a decoding step knows no bias of matrices")
    if isinstance(linear, Int8Linear):
        return linear.rows()
    if linear.weight.dtype not in DTYPES or linear.weight.device.type != "cpu":
        raise TypeError(f"a decoding step cannot take weights in {linear.weight.dtype} on {linear.weight.device}")
    return linear.weight.detach().contiguous(), torch.ones(linear.out_features)


def _version(parameter: Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version
