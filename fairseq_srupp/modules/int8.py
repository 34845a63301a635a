"""Matrix products and embeddings in int8, for decoding and evaluation on a CPU.

Weights have one scale for each output channel, or row of an embedding; the inputs of a product are quantised as they
come. The products are torch's own kernels (`quantized::linear_dynamic`, with one scale for all inputs), which use the
processor's instructions for int8 where it has them; those of few rows and of decoding are ours (ops/step.py, with a
scale for each row). Everything else is computed as before: recurrence, attention, norms, softmax. So results depend a
little on what else is in a batch. A model in int8 is for running alone: its `state_dict` has none of these weights.
"""

import warnings
from typing import Callable, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops import step
from .adaptive import AdaptiveInput, AdaptiveSoftmax

_LARGEST = 127


def _quantized(weight: Tensor) -> Tuple[Tensor, Tensor]:
    """Weights (N, K) as int8 and scales (N,)."""
    weight = weight.detach().float()
    scale = weight.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / _LARGEST
    return (weight / scale.unsqueeze(1)).round_().to(torch.int8), scale


class Int8Linear(nn.Module):
    """x W^T + b with W in int8.

    Args:
        weight: W (N, K).
        bias: b (N,).
    """

    def __init__(self, weight: Tensor, bias: Optional[Tensor] = None):
        super().__init__()
        whole, scale = _quantized(weight)
        with warnings.catch_warnings():  # torch's announcement that tensors of this kind go
            warnings.simplefilter("ignore")
            zeros = torch.zeros(len(scale), dtype=torch.int64)
            tensor = torch._make_per_channel_quantized_tensor(whole, scale.double(), zeros, 0)
        self.out_features = len(scale)
        self.bias = None if bias is None else bias.detach().float()
        self._rows: Optional[Tuple[Tensor, Tensor]] = None
        self.packed = torch.ops.quantized.linear_prepack(tensor, self.bias)

    def rows(self) -> Tuple[Tensor, Tensor]:
        """W (N, K) in int8 and its scales (N,): a copy, made when it is first needed."""
        if self._rows is None:
            tensor, _ = torch.ops.quantized.linear_unpack(self.packed)
            self._rows = tensor.int_repr(), tensor.q_per_channel_scales().float()
        return self._rows

    def _apply(self, fn: Callable, recurse: bool = True) -> "Int8Linear":
        if fn(torch.empty(0)).device.type != "cpu":
            raise ValueError("int8 is for CPUs: what is in int8 cannot be moved elsewhere")
        return super()._apply(fn, recurse)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., K) to (..., N), in the dtype of x."""
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features)
        rows = x.numel() // x.size(-1)
        traced = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if rows <= step.FEW_ROWS and step.available() and not traced:  # so few that torch's takes longest for itself
            y = step.linear(x.float().reshape(rows, -1).contiguous(), *self.rows())
            y = y if self.bias is None else y + self.bias
            return y.view(*x.shape[:-1], self.out_features).to(x.dtype)
        # Inputs of 7 bits: processors without the instructions for int8 add products of 8 in 16 bits, and may overflow.
        return torch.ops.quantized.linear_dynamic(x.float(), self.packed, True).to(x.dtype)


class Int8Embedding(nn.Module):
    """Rows of a table (V, e) in int8, as fp32."""

    def __init__(self, weight: Tensor):
        super().__init__()
        whole, scale = _quantized(weight)
        self.register_buffer("rows", whole, persistent=False)
        self.register_buffer("scale", scale, persistent=False)

    @property
    def embedding_dim(self) -> int:
        return self.rows.size(1)

    def forward(self, words: Tensor) -> Tensor:
        """Words, int64 of any shape, to (..., e)."""
        return F.embedding(words, self.rows).to(self.scale.dtype) * F.embedding(words, self.scale.unsqueeze(1))


class Int8AdaptiveInput(AdaptiveInput):
    """Of an AdaptiveInput in int8."""

    def __init__(self, source: AdaptiveInput):
        nn.Module.__init__(self)
        self.bands = source.bands
        self.tables = nn.ModuleList(Int8Embedding(embedding) for embedding in source.embeddings)
        self.linears = nn.ModuleList(Int8Linear(projection) for projection in source.projections)

    def _rows(self, words: Tensor, band: int) -> Tensor:
        return self.linears[band](self.tables[band](words - self.bands.starts[band]))


class Int8AdaptiveSoftmax(AdaptiveSoftmax):
    """Of an AdaptiveSoftmax in int8."""

    def __init__(self, source: AdaptiveSoftmax):
        nn.Module.__init__(self)
        self.bands = source.bands
        self.linears = nn.ModuleList(
            nn.Sequential(Int8Linear(projection.t()), Int8Linear(embedding, bias))
            for projection, embedding, bias in zip(source.projections, source.embeddings, source.biases)
        )

    def _scores(self, features: Tensor, band: int) -> Tensor:
        return self.linears[band](features)


_KINDS = {
    nn.Linear: lambda module: Int8Linear(module.weight, module.bias),
    nn.Embedding: lambda module: Int8Embedding(module.weight),
    AdaptiveInput: Int8AdaptiveInput,
    AdaptiveSoftmax: Int8AdaptiveSoftmax,
}


def quantize(model: nn.Module) -> None:
    """Replaces what `model` has of linear layers, embeddings, adaptive input and softmax, for good; on a CPU.

    Raises:
        ValueError: the model is on another device, or this torch has no kernels in int8.
    """
    devices = {parameter.device.type for parameter in model.parameters()} - {"cpu"}
    if devices:
        raise ValueError(f"int8 is for CPUs: the model is on {', '.join(devices)}")
    if torch.backends.quantized.engine == "none":
        raise ValueError(f"torch {torch.__version__} has no kernels in int8 for this processor")
    made = {}  # one for each that is shared
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):  # shared ones too
            if type(child) in _KINDS:
                if child not in made:
                    made[child] = _KINDS[type(child)](child)
                setattr(module, name, made[child])


class RunsInInt8(nn.Module):
    """A model that is brought into int8 when it is told to evaluate, if `int8` says so."""

    int8 = False

    def train(self, mode: bool = True) -> "RunsInInt8":
        """
        Raises:
            ValueError: training in int8, or int8 elsewhere than on a CPU.
        """
        if mode and self.int8:
            raise ValueError("int8 is for generation and evaluation: training needs the weights themselves")
        if self.int8 and not any(isinstance(module, Int8Linear) for module in self.modules()):
            quantize(self.float())  # --fp16 has made halves of it
        return super().train(mode)
