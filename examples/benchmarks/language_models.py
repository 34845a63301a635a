"""Language models for benchmarks: the paper's, as it trains them, and fairseq's transformer_lm of as many parameters."""

from __future__ import annotations

from argparse import Namespace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_INV_REGISTRY
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig, base_lm_architecture
from fairseq.modules import MultiheadAttention
from torch import Tensor, nn

from fairseq_srupp.models import srupp_lm_presets  # noqa: F401 (registers the architectures)
from fairseq_srupp.models.srupp_lm import SRUppLanguageModel, SRUppLanguageModelConfig
from fairseq_srupp.modules.adaptive import AdaptiveInput, AdaptiveSoftmax
from fairseq_srupp.modules.lm_embedding import build_embeddings
from fairseq_srupp.modules.transform import AttentionTransform

ARCHITECTURES = [name for name in ARCH_MODEL_INV_REGISTRY["srupp_lm"] if name.startswith("srupp_lm_")]

# of a size for a CPU, 4.8M parameters each
SMALL = {"hidden_size": 640, "attention_dim": 160, "layers": 10, "dropout": 0.0, "share_decoder_input_output_embed": True}
SMALL_TRANSFORMER = {"dim": 256, "ffn": 1024, "layers": 6, "heads": 4, "dropout": 0.0}


class Training(NamedTuple):
    """How the paper trains: rows on one GPU, tokens of a segment (and of the memory before it), symbols."""

    rows: int
    segment: int
    symbols: int


# the small model on one GPU, all others on 8
TRAINING = {
    "enwik8_small": Training(24, 512, 209),
    "enwik8_base": Training(32 // 8, 1024, 209),
    "enwik8_large": Training(64 // 8, 1024, 209),
    "wiki103_base": Training(64 // 8, 768, 267_737),
    "wiki103_large": Training(64 // 8, 1024, 267_737),
    "lm1b_base": Training(1024 // 8, 64, 793_473),
    "lm1b_large": Training(1536 // 8, 64, 793_473),
}


def training(arch: str) -> Training:
    name = arch.removeprefix("srupp_lm_")
    return next(how for prefix, how in TRAINING.items() if name.startswith(prefix))


def preset(arch: str) -> dict:
    """The options that an architecture sets."""
    options = Namespace()
    ARCH_CONFIG_REGISTRY[arch](options)
    return vars(options)


def task_of(symbols: int) -> Namespace:
    """A task with a dictionary of so many symbols, fairseq's own four included."""
    dictionary = Dictionary()
    for symbol in range(symbols - len(dictionary)):
        dictionary.add_symbol(str(symbol))
    return Namespace(source_dictionary=dictionary, target_dictionary=dictionary)


def srupp_lm(task: Namespace, **options) -> SRUppLanguageModel:
    return SRUppLanguageModel.build_model(SRUppLanguageModelConfig(**options), task)


def transformer_lm(
    task: Namespace, length: int, *, dim: int, ffn: int, layers: int, heads: int, dropout: float, words: dict | None = None
) -> TransformerLanguageModel:
    """fairseq's, pre-norm, with tied embeddings.

    Args:
        length: the longest sequence.
        words: options of srupp_lm's adaptive input and softmax, which this model then has as well; fairseq's own
            fail under autocast.
    """
    cfg = TransformerLanguageModelConfig(
        decoder_embed_dim=dim,
        decoder_output_dim=dim,
        decoder_input_dim=dim,
        decoder_ffn_embed_dim=ffn,
        decoder_layers=layers,
        decoder_attention_heads=heads,
        dropout=dropout,
        attention_dropout=dropout,
        share_decoder_input_output_embed=True,
        tokens_per_sample=length,
        max_target_positions=length,
    )
    base_lm_architecture(cfg)
    model = TransformerLanguageModel.build_model(cfg, task if words is None else task_of(8))
    if words is not None:
        decoder = model.decoder
        own = SRUppLanguageModelConfig(**{**words, "hidden_size": dim})
        decoder.embed_tokens, _, decoder.adaptive_softmax = build_embeddings(own, len(task.source_dictionary))
        decoder.output_projection = None
    return model


def equal_transformer_lm(task: Namespace, length: int, parameters: int, options: dict) -> TransformerLanguageModel:
    """A transformer_lm that has as many parameters as a srupp_lm of these options.

    Its 12 layers have heads of 64 and inner layers of about four times their width, in steps of 8.
    """
    words = options if options.get("adaptive_input") else None
    layers = 2 if parameters < 1e6 else 12
    with torch.device("meta"):
        fixed = parameters_of(transformer_lm(task, 8, dim=64, ffn=8, layers=1, heads=1, dropout=0.0, words=words))
        body = max(parameters - fixed, 0)
        dim = max(64, 64 * round((body / layers / 12) ** 0.5 / 64))
        shape = {"dim": dim, "layers": layers, "heads": dim // 64, "dropout": options["dropout"], "words": words}
        smallest = parameters_of(transformer_lm(task, length, ffn=8, **shape))
    ffn = 8 + 8 * max(0, round((parameters - smallest) / layers / (2 * dim + 1) / 8))
    return transformer_lm(task, length, ffn=ffn, **shape)


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def zipf(tokens: int, symbols: int) -> Tensor:
    """Words as frequent as in text: the n-th after the special ones in proportion to 1 / (n + 2.7)."""
    weights = 1 / (torch.arange(4, symbols) + 2.7)
    return torch.multinomial(weights, tokens, True, generator=torch.Generator().manual_seed(0)) + 4


class Batch(NamedTuple):
    """What a model reads and what follows, int64 (B, L) each."""

    inputs: Tensor
    target: Tensor


def batch_of(tokens: Tensor, device: str) -> Batch:
    """Of tokens (B, L + 1) on the host, moved to the device as fairseq does it: models then know what is padded."""
    batch = Batch(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    return batch if device == "cpu" else Batch(*utils.move_to_cuda(list(batch)))


def mean_loss(model: nn.Module, batch: Batch, **stream) -> Tensor:
    output, target = model(batch.inputs, **stream)[0], batch.target.flatten()
    softmax = model.decoder.adaptive_softmax
    if softmax is None:
        return F.cross_entropy(output.flatten(0, 1).float(), target)
    parts = [
        F.cross_entropy(scores.float(), of_band, reduction="sum")
        for scores, of_band in zip(*softmax(output, target))
        if of_band is not None
    ]
    return sum(parts) / target.numel()


def make_update(model: nn.Module, optimizer, batch: Batch, number: int, *, amp: bool = True, stream: tuple = ()) -> None:
    """Update `number` as fairseq makes it: in bf16 autocast if `amp`, gradients clipped at 1. stream: the key of the segment,
    for a model that reads one."""
    model.set_num_updates(number)
    with torch.autocast(batch.inputs.device.type, dtype=torch.bfloat16, enabled=amp):
        loss = mean_loss(model, batch, **({"stream": stream} if stream else {}))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def update_operations(model: nn.Module, batch: Batch, memory: int) -> float:
    """Operations of the matrix products that a training update needs, with M = memory positions before the batch's.

    6 for each weight and position that passes through it (2 forward, 4 backward). Memory passes through W_q and W_kv of
    attention layers: 4 and 6, as its inputs get no gradient. Attention: 12 d' for each pair of a query and a key that it
    sees. Adaptive embeddings: the positions of each band.
    """
    rows, length = batch.inputs.shape
    positions, pairs = rows * length, rows * length * (length + 1) / 2
    count = 0.0
    for module in model.decoder.modules():
        if isinstance(module, nn.Linear):
            count += 6 * module.weight.numel() * positions
        elif isinstance(module, AttentionTransform):
            count += (4 * module.in_proj.weight.numel() + 6 * module.kv_proj.weight.numel()) * rows * memory
            count += 12 * module.kv_proj.in_features * (pairs + rows * length * memory)
        elif isinstance(module, MultiheadAttention):
            count += 12 * module.embed_dim * pairs
        elif isinstance(module, (AdaptiveInput, AdaptiveSoftmax)):
            softmax = isinstance(module, AdaptiveSoftmax)
            _, of_bands = module.bands.sort((batch.target if softmax else batch.inputs).flatten())
            of_bands[0] = positions if softmax else of_bands[0]  # the head has all
            for inside, embedding, projection in zip(of_bands, module.embeddings, module.projections):
                count += 6 * inside * (projection.numel() + (embedding.numel() if softmax else 0))
    return count
