"""SRU++ to read: a language model of bytes in plain PyTorch. `python srupp.py TEXT` trains on a file and continues it.

Equations: Tao Lei, "When Attention Meets Fast Recurrence", 2021, https://arxiv.org/abs/2102.12459. The paper writes a
position as a column, here it is a row: W X^T is nn.Linear of X. Sizes: L positions of a segment, B streams of text side
by side, M positions of memory, d hidden size, d' attention size, V symbols.
"""

import argparse
import itertools
import math
import time
from pathlib import Path

import torch
from torch import nn


class Transform(nn.Module):
    """Section 3: attention makes the recurrence's input U of the layer's input X."""

    def __init__(self, d, d_attention, dropout):
        super().__init__()
        self.in_proj = nn.Linear(d, d_attention, bias=False)  # W^q
        self.kv_proj = nn.Linear(d_attention, 2 * d_attention, bias=False)  # W^k above W^v
        self.alpha = nn.Parameter(torch.zeros(1))  # 0: training begins without attention
        self.norm = nn.LayerNorm(d_attention)
        self.dropout = nn.Dropout(dropout)
        self.out_proj = nn.Linear(d_attention, 3 * d, bias=False)  # W^o

    def forward(self, x, memory):
        """x (L, B, d), memory (M, B, d) -> U (L, B, 3d)."""
        q = self.in_proj(torch.cat((memory, x)))  # Q = W^q X^T, (M + L, B, d')
        k, v = self.kv_proj(q).chunk(2, dim=-1)  # K = W^k Q, V = W^v Q, (M + L, B, d') each
        q = q[len(memory) :]  # (L, B, d'): the memory is only looked at
        scores = torch.einsum("lbd,sbd->bls", q, k) / math.sqrt(q.size(-1))  # Q^T K / sqrt(d'), (B, L, M + L)
        later = torch.ones_like(scores[0], dtype=torch.bool).triu(len(memory) + 1)  # (L, M + L)
        weights = scores.masked_fill(later, -math.inf).softmax(dim=-1)  # no position sees a later one
        a = torch.einsum("bls,sbd->lbd", weights, v)  # A^T = softmax(Q^T K / sqrt(d')) V^T, (L, B, d')
        z = self.norm(q + self.alpha * a)  # layernorm(Q + alpha A), (L, B, d')
        return self.out_proj(self.dropout(z))  # U^T = W^o layernorm(Q + alpha A), (L, B, 3d)


class Layer(nn.Module):
    """Section 2: the recurrence over U, in which each of the d channels is by itself."""

    def __init__(self, d, d_attention, dropout):
        super().__init__()
        self.transform = Transform(d, d_attention, dropout)
        self.weight_c = nn.Parameter(torch.empty(2, d).uniform_(-1, 1))  # v, v'
        self.bias = nn.Parameter(torch.tensor([[0.0], [-2.0]]).repeat(1, d))  # b, b': r begins small, so h is near x

    def forward(self, x, c, memory):
        """x (L, B, d) and, from before it, c (B, d) and memory (M, B, d) -> h (L, B, d), the last c (B, d)."""
        u, u_f, u_r = self.transform(x, memory).chunk(3, dim=-1)  # U[t, 2], U[t, 0], U[t, 1], (L, B, d) each
        (v_f, v_r), (b_f, b_r) = self.weight_c, self.bias  # (d,) each
        h = []
        for x_t, u_t, f_t, r_t in zip(x, u, u_f, u_r):  # position after position, (B, d) each
            f = torch.sigmoid(f_t + v_f * c + b_f)  # (2) forget gate
            r = torch.sigmoid(r_t + v_r * c + b_r)  # (3) reset gate
            c = f * c + (1 - f) * u_t  # (4) state
            h.append(r * c + (1 - r) * x_t)  # (5) output, with a highway for the input
        return torch.stack(h), c


class LanguageModel(nn.Module):
    """Section 4: embedding, layers above each other, output. Each layer keeps its c and its last M inputs."""

    def __init__(self, symbols, d, d_attention, layers, memory, dropout=0.0):
        super().__init__()
        self.memory = memory  # M
        self.embed_tokens = nn.Embedding(symbols, d)
        self.layers = nn.ModuleList(Layer(d, d_attention, dropout) for _ in range(layers))
        self.output = nn.Linear(d, symbols)

    def forward(self, tokens, state=None):
        """tokens (L, B), the state after the segment before -> scores of the next tokens (L, B, V), the state now."""
        x = self.embed_tokens(tokens)  # (L, B, d)
        before, after = state or [(torch.zeros_like(x[0]), x[:0])] * len(self.layers), []  # None: the text begins
        for layer, (c, memory) in zip(self.layers, before):
            seen = torch.cat((memory, x))[-self.memory :]
            x, c = layer(x, c, memory)
            after.append((c.detach(), seen.detach()))  # gradients end where the segment begins
        return self.output(x), after


def segments(data, rows, length):
    """data (N,) as B streams side by side, in segments: tokens and the tokens after them, (L, B) each."""
    n = (len(data) - 1) // rows // length * length  # what fills no segment is left out
    tokens, targets = (data[start : start + rows * n].view(rows, n).t() for start in (0, 1))
    return zip(tokens.split(length), targets.split(length))


def losses(model, batches):
    """The cross-entropy of each segment in bits per byte, a scalar; each begins with the state after the one before."""
    state = None
    for tokens, targets in batches:
        scores, state = model(tokens, state)
        yield nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten()) / math.log(2)


def train(model, data, steps, lr, rows, segment):
    optimizer = torch.optim.RAdam(model.parameters(), lr, weight_decay=0.1, decoupled_weight_decay=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    batches = itertools.cycle(segments(data, rows, segment))  # where a stream ends, it begins again
    total, every, start = 0.0, max(1, steps // 10), time.time()
    for step, loss in zip(range(1, steps + 1), losses(model, batches)):
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % every == 0:
            print(f"step {step}: {total / every:.3f} bits per byte, {time.time() - start:.0f} s", flush=True)
            total = 0.0


def sample(model, prompt, length, temperature=0.7):
    """`length` bytes behind the bytes `prompt`, each drawn from what the model expects."""
    state, tokens = None, torch.tensor([list(prompt)]).t()  # (L, 1), then (1, 1)
    for _ in range(length):
        scores, state = model(tokens, state)  # (L, 1, V)
        tokens = torch.multinomial((scores[-1] / temperature).softmax(dim=-1), 1)
        yield tokens.item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("text", type=Path, help="any file; its last twentieth is held out")
    parser.add_argument("--prompt", help="what is continued; if not given, the first 200 bytes held out")
    options = dict(steps=1000, lr=0.01, rows=8, segment=128, d=384, d_attention=96, layers=4, dropout=0.0)
    for name, value in options.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=" ")
    args = parser.parse_args()
    try:
        text = args.text.read_bytes()
    except OSError as error:
        raise SystemExit(f"{args.text}: {error.strerror}") from None
    if len(text) < (needed := 20 * (args.rows * args.segment + 1)):  # or no whole segment is held out
        raise SystemExit(f"{args.text}: {len(text)} bytes, expected at least {needed}")
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()  # (N,)
    training, held_out = data.split([len(data) - len(data) // 20, len(data) // 20])
    torch.manual_seed(1)
    model = LanguageModel(256, args.d, args.d_attention, args.layers, memory=args.segment, dropout=args.dropout)
    train(model, training, args.steps, args.lr, args.rows, args.segment)
    model.eval().requires_grad_(False)
    bits = [loss.item() for loss in losses(model, segments(held_out, args.rows, args.segment))]
    print(f"held out: {sum(bits) / len(bits):.3f} bits per byte")
    prompt = args.prompt.encode() if args.prompt else text[-len(held_out) :][:200]
    print((prompt + bytes(sample(model, prompt, 500))).decode(errors="replace"))
