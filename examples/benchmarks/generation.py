"""Text generation: tokens a second of srupp_lm and of fairseq's transformer_lm of as many parameters, sampled by fairseq.

    python examples/benchmarks/generation.py [--arch srupp_lm_enwik8_base] [--tokens 256] [--batch 1 64] [--device cuda]

fairseq's own SequenceGenerator samples from the 10 most likely symbols, one text in each row, from a prompt of one symbol to
--tokens symbols, everything in fp16. The weights are untrained; the end of a text is forbidden before.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from fairseq.search import BeamSearch, Sampling
from fairseq.sequence_generator import EnsembleModel, SequenceGenerator
from language_models import equal_transformer_lm, parameters_of, preset, srupp_lm, task_of, training
from machine import environment, save, synchronize
from recurrence import usable_device

REGIONS = {  # of a profile of fairseq's generator
    "encoder": [(EnsembleModel, "forward_encoder")],
    "decoder": [(EnsembleModel, "forward_decoder")],
    "reordering": [(EnsembleModel, "reorder_incremental_state"), (EnsembleModel, "reorder_encoder_out")],
    "search": [(BeamSearch, "step"), (Sampling, "step")],
}
TINY = {"hidden_size": 64, "attention_dim": 16, "layers": 2}


def build(args):
    """Both models by name, and their dictionary."""
    options, task = {**preset(args.arch), **(TINY if args.tiny else {})}, task_of(training(args.arch).symbols)
    with torch.device(args.device):
        ours = srupp_lm(task, **options, mem_len=args.tokens)
        theirs = equal_transformer_lm(task, args.tokens + 2, parameters_of(ours), options)
    models = {"srupp_lm": ours, "transformer_lm": theirs}
    return {name: model.to(args.device).half().eval() for name, model in models.items()}, task.target_dictionary


@torch.no_grad()
def generate(model, dictionary, rows: int, tokens: int, device: str) -> float:
    """Seconds for as many texts of as many tokens."""
    search = Sampling(dictionary, sampling_topk=10)
    generator = SequenceGenerator([model], dictionary, beam_size=1, max_len_b=tokens, min_len=tokens, search_strategy=search)
    prompt = torch.full((rows, 1), dictionary.nspecial, device=device)
    sample = {"net_input": {"src_tokens": prompt, "src_lengths": torch.ones(rows, dtype=torch.long, device=device)}}
    synchronize(device)
    begin = time.perf_counter()
    found = generator.generate([model], sample, bos_token=dictionary.nspecial)
    synchronize(device)
    seconds = time.perf_counter() - begin
    lengths = {len(text[0]["tokens"]) for text in found}
    if lengths != {tokens + 1}:  # and the end of sentence
        raise SystemExit(f"texts of {sorted(lengths)} tokens instead of {tokens}: no figures")
    return seconds


def summary(rows: "list[dict]") -> "dict[str, str]":
    lines = {}
    for row in rows:
        reference = next((r for r in rows if r["batch"] == row["batch"] and r["model"] == "transformer_lm"), None)
        ratio = f"  x {row['tokens_per_second'] / reference['tokens_per_second']:.2f}" if reference else ""
        per_step = 1e3 * row["batch"] / row["tokens_per_second"]
        text = f"{row['tokens_per_second']:,.0f} tokens a second, {per_step:.2f} ms a step{ratio}"
        lines[f"{row['batch']} rows, {row['model']}"] = text
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="srupp_lm_enwik8_base")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", type=usable_device, default="cpu")
    parser.add_argument("--tiny", action="store_true", help="sizes that tell nothing")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.tiny:
        args.tokens, args.batch, args.rounds = 4, [1, 2], 1
    torch.manual_seed(0)
    models, dictionary = build(args)
    about, rows = environment(args.device), []
    for batch in args.batch:
        for name, model in models.items():
            generate(model, dictionary, batch, min(16, args.tokens), args.device)
            seconds = [generate(model, dictionary, batch, args.tokens, args.device) for _ in range(args.rounds)]
            rate = batch * args.tokens / statistics.median(seconds)
            row = {"model": name, "parameters": parameters_of(model), "batch": batch, "tokens": args.tokens}
            rows.append({**row, "tokens_per_second": rate, "seconds": seconds})
            save(args.json, {**about, "arch": args.arch, "rows": rows, "summary": summary(rows)})
    print(*(f"{name:28} {text}" for name, text in summary(rows).items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
