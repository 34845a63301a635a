"""Training throughput of srupp_lm against fairseq's transformer_lm: same parameters, context and batch, in one run.

    python examples/benchmarks/throughput.py [--json FILE] [--batch 8] [--length 256] [--rounds 5] [--device cuda --amp]

Each model makes whole updates (forward, backward, clipping, optimizer) on the same random bytes; the models take turns,
so that both meet the same machine. srupp_lm runs twice: without memory, which gives it the transformer's context, and
with the previous segment as memory, as in the paper.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig, base_lm_architecture
from machine import environment

from fairseq_srupp.models.srupp_lm import SRUppLanguageModel, SRUppLanguageModelConfig
from fairseq_srupp.optim import FusedRAdam

SYMBOLS = 205


class Task:
    source_dictionary = target_dictionary = Dictionary()


for _symbol in range(SYMBOLS):
    Task.target_dictionary.add_symbol(str(_symbol))


def transformer_lm(length: int):
    """6 layers of 256 with 4 heads and a feed-forward size of 1024."""
    cfg = TransformerLanguageModelConfig(
        decoder_embed_dim=256,
        decoder_output_dim=256,
        decoder_input_dim=256,
        decoder_ffn_embed_dim=1024,
        decoder_layers=6,
        decoder_attention_heads=4,
        dropout=0.0,
        attention_dropout=0.0,
        share_decoder_input_output_embed=True,
        tokens_per_sample=length,
        max_target_positions=length,
    )
    base_lm_architecture(cfg)
    return TransformerLanguageModel.build_model(cfg, Task)


def srupp_lm(mem_len: int):
    """10 layers of d = 640, d' = 160."""
    cfg = SRUppLanguageModelConfig(
        hidden_size=640, attention_dim=160, layers=10, dropout=0.0, mem_len=mem_len, share_decoder_input_output_embed=True
    )
    return SRUppLanguageModel.build_model(cfg, Task)


class Run:
    """One model in training."""

    def __init__(self, model, args, streaming: bool):
        self.model = model.to(args.device).train()
        self.optimizer = FusedRAdam(self.model.parameters(), lr=3e-4, weight_decay=0.1)
        self.args, self.streaming, self.updates, self.seconds = args, streaming, 0, []

    def update(self, tokens: torch.Tensor) -> None:
        stream = {"stream": ("train", 1, self.updates)} if self.streaming else {}
        self.model.set_num_updates(self.updates)
        with torch.autocast(tokens.device.type, dtype=torch.bfloat16, enabled=self.args.amp):
            scores = self.model(tokens[:, :-1], **stream)[0]
        F.cross_entropy(scores.float().flatten(0, 1), tokens[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.updates += 1

    def timed(self, batches) -> None:
        """Seconds per update over the batches."""
        self._wait()
        begin = time.perf_counter()
        for tokens in batches:
            self.update(tokens)
        self._wait()
        self.seconds.append((time.perf_counter() - begin) / len(batches))

    def _wait(self) -> None:
        if self.args.device == "cuda":
            torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256, help="tokens per sample")
    parser.add_argument("--updates", type=int, default=4, help="updates in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--amp", action="store_true", help="bf16 autocast")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)

    runs = {
        "transformer_lm": Run(transformer_lm(args.length), args, streaming=False),
        "srupp_lm, no memory": Run(srupp_lm(0), args, streaming=False),
        f"srupp_lm, memory {args.length}": Run(srupp_lm(args.length), args, streaming=True),
    }
    for round_ in range(args.rounds + 1):
        batches = torch.randint(4, SYMBOLS, (args.updates, args.batch, args.length + 1), device=args.device)
        for run in runs.values():
            run.timed(batches)

    reference = None
    rows = []
    for name, run in runs.items():
        tokens = [args.batch * args.length / seconds for seconds in run.seconds[1:]]
        median = statistics.median(tokens)
        reference = reference or median
        parameters = sum(p.numel() for p in run.model.parameters())
        rows.append({"model": name, "parameters": parameters, "tokens_per_second": tokens, "ratio": median / reference})
        print(f"{name:24} {parameters:>11,} parameters {median:>9,.0f} tokens/s  x {median / reference:.2f}")
    if args.json:
        settings = {k: v for k, v in vars(args).items() if k != "json"}
        args.json.write_text(json.dumps({**environment(args.device), "settings": settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
