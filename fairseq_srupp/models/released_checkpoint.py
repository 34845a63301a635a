"""Language models that the author of SRU++ released, as parameters of srupp_lm.

Source: the state dicts that asappresearch/sru, branch 3.0.0-dev, experiments/srupp_experiments saves. Against ours:
- rows of W^o: the three gates of a unit stand together there, here all units of a gate;
- v and b are vectors (2d) there, the forget gate first, here (2, d);
- an adaptive softmax: tail i is the i-th row of the head from its end there, from the end of the words here;
- his vocabularies lack fairseq's special symbols.
"""

from typing import Dict, List, Mapping, NamedTuple, Sequence, Tuple

import torch
from torch import Tensor

_IMPOSSIBLE = -1e4
"""Score of a symbol that never occurs: its probability is 0, and fp16 holds it."""


class ReleasedModel(NamedTuple):
    """What a state dict tells of its model.

    attention_layers: 1-based.
    norm: whether attention and projections end in a layer norm.
    bands: how many words each band of the adaptive embedding and softmax holds; a single one: both are plain.
    band_dims: size of the embeddings of each band.
    factor: by which each is smaller than the one before.
    tied_projections: adaptive input and softmax share them.
    """

    hidden_size: int
    attention_dim: int
    layers: int
    attention_layers: List[int]
    norm: bool
    bands: List[int]
    band_dims: List[int]
    factor: int
    tied_projections: bool

    @property
    def adaptive(self) -> bool:
        """Adaptive input and softmax, instead of plain ones."""
        return len(self.bands) > 1


def read_model(state: Mapping[str, Tensor]) -> ReleasedModel:
    """Sizes and variant of the model in a state dict.

    Raises:
        ValueError: it is no language model of the author's, or one that srupp_lm cannot be.
    """
    attention_dim, hidden_size = _size(state, f"{_transform(0)}linear1.weight")
    layers = 1
    while f"{_transform(layers)}linear1.weight" in state:
        layers += 1
    bands, dims = _bands(state)
    model = ReleasedModel(
        hidden_size=hidden_size,
        attention_dim=attention_dim,
        layers=layers,
        attention_layers=[i + 1 for i in range(layers) if f"{_transform(i)}alpha" in state],
        norm=f"{_transform(0)}layer_norm.weight" in state,
        bands=bands,
        band_dims=dims,
        factor=_factor(dims),
        tied_projections=all(_tied(state, band) for band in range(len(bands))),
    )
    _check(state, _shapes(model))
    if any(state[f"rnn.rnn_lst.{i}.scale_x"].item() != 1 for i in range(layers)):
        raise ValueError("its highway connections are rescaled (scale_x), which srupp_lm's are not")
    return model


def convert(state: Mapping[str, Tensor], model: ReleasedModel, source: Sequence[int]) -> Dict[str, Tensor]:
    """The parameters of srupp_lm, in fp32.

    Args:
        state: the author's state dict.
        model: what `read_model` said of it.
        source: for each symbol of the dictionary (with bands: of the first one) its row in the author's matrices; -1
            for a symbol that he does not have, which then never occurs.
    """
    state = {name: tensor.float() for name, tensor in state.items()}
    ours = {}
    for i in range(model.layers):
        for name, tensor in _layer(state, i, i + 1 in model.attention_layers).items():
            ours[f"decoder.stack.layers.{i}.{name}"] = tensor
    ours.update(_adaptive(state, model, source) if model.adaptive else _plain(state, source))
    return ours


def _transform(layer: int) -> str:
    return f"rnn.rnn_lst.{layer}.transform_module."


def _size(state: Mapping[str, Tensor], name: str) -> Tuple[int, int]:
    tensor = state.get(name)
    if not isinstance(tensor, Tensor) or tensor.dim() != 2 or not tensor.numel():
        raise ValueError(f"no language model of the author's SRU++ code: it has no matrix {name}")
    return tuple(tensor.shape)


def _bands(state: Mapping[str, Tensor]) -> Tuple[List[int], List[int]]:
    """Words and dimensions of each band."""
    if "output_layer.out_layers.0.weight" not in state:
        words, dim = _size(state, "output_layer.weight")
        return [words], [dim]
    sizes: List[Tuple[int, int]] = []
    while f"output_layer.out_layers.{len(sizes)}.weight" in state:
        sizes.append(_size(state, f"output_layer.out_layers.{len(sizes)}.weight"))
    words, dims = [list(numbers) for numbers in zip(*sizes)]
    words[0] -= len(sizes) - 1  # the head has a row for each tail
    return words, dims


def _factor(dims: List[int]) -> int:
    for factor in range(1, dims[0] // dims[min(1, len(dims) - 1)] + 1):
        if dims[-1] > 0 and dims == [dims[0] // factor**i for i in range(len(dims))]:
            return factor
    raise ValueError(f"embeddings of {', '.join(map(str, dims))} dimensions do not shrink by one whole factor")


def _tied(state: Mapping[str, Tensor], band: int) -> bool:
    name = f"_projs.{band}"
    output, embedding = state.get(f"output_layer.out{name}"), state.get(f"embedding_layer.emb{name}")
    return output is not None and embedding is not None and torch.equal(output, embedding)


def _shapes(model: ReleasedModel) -> Dict[str, Tuple[int, ...]]:
    """Of every tensor of the author's model."""
    d, a = model.hidden_size, model.attention_dim
    shapes: Dict[str, Tuple[int, ...]] = {}
    for i in range(model.layers):
        for name, shape in {"weight_c": (2 * d,), "bias": (2 * d,), "scale_x": (1,)}.items():
            shapes[f"rnn.rnn_lst.{i}.{name}"] = shape
        transform: Dict[str, Tuple[int, ...]] = {"linear1.weight": (a, d), "linear2.weight": (3 * d, a)}
        if i + 1 in model.attention_layers:
            transform.update({"linear2.weight": (2 * a, a), "linear3.weight": (3 * d, a), "alpha": (1,)})
        if model.norm:
            transform.update({"layer_norm.weight": (a,), "layer_norm.bias": (a,)})
        shapes.update({f"{_transform(i)}{name}": shape for name, shape in transform.items()})
    if not model.adaptive:
        words = model.bands[0]
        shapes.update({"embedding_layer.weight": (words, d), "output_layer.weight": (words, d)})
        shapes["output_layer.bias"] = (words,)
        return shapes
    for band, (words, dim) in enumerate(zip(model.bands, model.band_dims)):
        rows = words if band else words + len(model.bands) - 1
        shapes.update({f"output_layer.out_projs.{band}": (d, dim), f"embedding_layer.emb_projs.{band}": (d, dim)})
        shapes[f"output_layer.out_layers.{band}.weight"] = (rows, dim)
        shapes[f"output_layer.out_layers.{band}.bias"] = (rows,)
    return shapes


def _check(state: Mapping[str, Tensor], shapes: Mapping[str, Tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        if name not in state:
            raise ValueError(f"{name} is missing")
        if tuple(state[name].shape) != shape:
            raise ValueError(f"{name} is {tuple(state[name].shape)}, expected {shape}")
        if state[name].dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            raise ValueError(f"{name} is of {state[name].dtype}, expected floating-point numbers")
    unknown = sorted(state.keys() - shapes.keys())
    if unknown:
        raise ValueError(f"srupp_lm has nothing like its {unknown[0]}")


def _layer(state: Mapping[str, Tensor], i: int, attends: bool) -> Dict[str, Tensor]:
    """One layer's parameters, under the names of ours."""
    theirs = {name.removeprefix(_transform(i)): t for name, t in state.items() if name.startswith(_transform(i))}
    ours = {
        "weight_c": state[f"rnn.rnn_lst.{i}.weight_c"].view(2, -1),
        "bias": state[f"rnn.rnn_lst.{i}.bias"].view(2, -1),
        "transform.in_proj.weight": theirs["linear1.weight"],
        "transform.out_proj.weight": _planar(theirs["linear3.weight" if attends else "linear2.weight"]),
    }
    if attends:
        ours["transform.kv_proj.weight"] = theirs["linear2.weight"]
        ours["transform.alpha"] = theirs["alpha"]
    for name in ("weight", "bias"):
        if f"layer_norm.{name}" in theirs:
            ours[f"transform.norm.{name}"] = theirs[f"layer_norm.{name}"]
    return ours


def _planar(weight: Tensor) -> Tensor:
    """(3d, d'), the gate index fastest, to the gate index slowest."""
    return weight.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)


def _rows(tensor: Tensor, source: Sequence[int], missing: float) -> Tensor:
    """The rows `source`, filled with `missing` where that is -1."""
    index = torch.tensor(source)
    rows = tensor[index.clamp(min=0)]
    rows[index < 0] = missing
    return rows


def _plain(state: Mapping[str, Tensor], source: Sequence[int]) -> Dict[str, Tensor]:
    return {
        "decoder.embed_tokens.weight": _rows(state["embedding_layer.weight"], source, 0),
        "decoder.output.linear.weight": _rows(state["output_layer.weight"], source, 0),
        "decoder.output.linear.bias": _rows(state["output_layer.bias"], source, _IMPOSSIBLE),
    }


def _adaptive(state: Mapping[str, Tensor], model: ReleasedModel, source: Sequence[int]) -> Dict[str, Tensor]:
    ours = {}
    for band in range(len(model.bands)):
        weight = state[f"output_layer.out_layers.{band}.weight"]
        bias = state[f"output_layer.out_layers.{band}.bias"]
        if band == 0:
            weight = _head(weight, model.bands[0], source, 0)
            bias = _head(bias, model.bands[0], source, _IMPOSSIBLE)
        projection = state[f"output_layer.out_projs.{band}"]
        ours[f"decoder.adaptive_softmax.embeddings.{band}"] = weight
        ours[f"decoder.adaptive_softmax.biases.{band}"] = bias
        ours[f"decoder.adaptive_softmax.projections.{band}"] = projection
        ours[f"decoder.embed_tokens.embeddings.{band}"] = weight
        ours[f"decoder.embed_tokens.projections.{band}"] = (
            projection if model.tied_projections else state[f"embedding_layer.emb_projs.{band}"]
        )
    return ours


def _head(tensor: Tensor, words: int, source: Sequence[int], missing: float) -> Tensor:
    return torch.cat((_rows(tensor[:words], source, missing), tensor[words:].flip(0)))
