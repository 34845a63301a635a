"""Layers and stacks against the formulas of the paper written out, and what masks and memory must not do."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_stack import DA, D, inputs, stack_of

from fairseq_srupp.modules import SRUppLayer, SRUppStack, attention_layer_indices
from fairseq_srupp.modules.masks import AttentionMask


def layer_by_the_paper(layer, x, memory=None, c=None, heads=1):
    """Section 3 and equations 2 to 5, one position and one head at a time."""
    t = layer.transform
    d, da = x.size(-1), t.in_proj.weight.size(0)
    past = 0 if memory is None else memory.size(0)
    seen = x if memory is None else torch.cat((memory, x))
    h = torch.empty_like(x)
    for b in range(x.size(1)):
        state = torch.zeros(d, dtype=x.dtype) if c is None else c[b]
        q = [t.in_proj.weight @ v for v in seen[:, b]]
        basis = [t.norm(v) for v in q] if t.attention_norm == "pre" else q
        kv = [t.kv_proj.weight @ v for v in basis]
        query = [t.query_proj.weight @ v if isinstance(t.query_proj, torch.nn.Linear) else v for v in basis]
        sharpen = lambda v, norm: v / (v.square().mean() + 1e-6).sqrt() * norm.weight if hasattr(norm, "weight") else v
        for i in range(x.size(0)):
            a = []
            for head in range(heads):
                part = slice(head * da // heads, (head + 1) * da // heads)
                keys = [v[:da][part] for v in kv[: past + i + 1]]
                values = [v[da:][part] for v in kv[: past + i + 1]]
                one = sharpen(query[past + i][part], t.query_norm)
                weights = torch.stack([one @ sharpen(k, t.key_norm) / math.sqrt(da / heads) for k in keys]).softmax(0)
                a.append(sum(w * v for w, v in zip(weights, values)))
            z = q[past + i] + t.alpha * torch.cat(a)
            z = t.norm(z) if t.attention_norm == "post" else z
            u = (t.out_proj.weight @ z).view(3, d)
            f = torch.sigmoid(u[1] + layer.weight_c[0] * state + layer.bias[0])
            r = torch.sigmoid(u[2] + layer.weight_c[1] * state + layer.bias[1])
            state = f * state + (1 - f) * u[0]
            h[i, b] = x[i, b] + r * (state - x[i, b])
    return h


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("norm", ["post", "pre", "none"])
@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("sharpened", [False, True])
def test_a_stack_computes_what_the_paper_says(awake, heads, norm, independent, sharpened):
    options = {"attention_norm": norm, "independent_query": independent, "query_key_norm": sharpened}
    stack = stack_of(awake, 2, heads=heads, **options)
    x = inputs(5)
    expected = layer_by_the_paper(stack.layers[1], layer_by_the_paper(stack.layers[0], x, heads=heads), heads=heads)
    torch.testing.assert_close(stack(x), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.filterwarnings("error")
def test_queries_and_keys_are_normed_under_autocast(awake, dtype):
    stack, x = stack_of(awake, 2, query_key_norm=True).float(), inputs(5).float()
    expected = stack(x)
    with torch.autocast("cpu", dtype):
        found = stack(x)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.05)


def test_a_layer_with_memory_and_state_computes_what_the_paper_says(awake):
    stack = stack_of(awake, 1)
    x, memory, c = inputs(5), inputs(4, seed=3), inputs(2, 1, seed=4).squeeze(1)
    mask = torch.ones(5, 9, dtype=torch.bool).tril(4)
    h, _ = stack.layers[0](x, c, context=stack.layers[0].transform.in_proj(memory), mask=AttentionMask(mask))
    torch.testing.assert_close(h, layer_by_the_paper(stack.layers[0], x, memory, c))


@pytest.mark.parametrize(
    "attention, expected", [(True, 4 * D * DA + 2 * DA + 4 * D + 2 * DA**2 + 1), (False, 4 * D * DA + 2 * DA + 4 * D)]
)
def test_parameter_counts(attention, expected):
    assert sum(p.numel() for p in SRUppLayer(D, DA, attention=attention).parameters()) == expected


def test_parameter_counts_of_the_variants():
    count = lambda **kw: sum(p.numel() for p in SRUppLayer(D, DA, **kw).parameters())
    assert count(attention=False, projection=False) == 3 * D * D + 4 * D
    assert count(attention_norm="none") == count() - 2 * DA
    assert count(independent_query=True) == count() + DA**2
    assert count(bidirectional=True) == count()


def test_initial_values():
    torch.manual_seed(0)
    layer = SRUppLayer(400, 100, dropout=0.36)
    assert layer.transform.alpha.item() == 0
    assert (layer.bias[0] == 0).all() and (layer.bias[1] == -2).all()
    assert -1 <= layer.weight_c.min() < -0.9 and 0.9 < layer.weight_c.max() <= 1
    for weight, scale in (
        (layer.transform.in_proj.weight, 1),
        (layer.transform.kv_proj.weight, 1),
        (layer.transform.out_proj.weight, 0.8),
    ):
        bound = scale * math.sqrt(6 / sum(weight.shape))
        assert 0.98 * bound < weight.abs().max() <= bound


def test_which_layers_attend():
    assert attention_layer_indices(10, 5) == [5, 10]
    assert attention_layer_indices(10, 3) == [3, 6, 9]
    assert attention_layer_indices(10, explicit=[10, 6]) == [6, 10]
    stack = SRUppStack(D, DA, 4, attention_layers=[2, 4])
    assert [layer.attention for layer in stack.layers] == [False, True, False, True]
    for call in (
        lambda: attention_layer_indices(4, 5),
        lambda: attention_layer_indices(4, 0),
        lambda: attention_layer_indices(4, explicit=[5]),
    ):
        with pytest.raises(ValueError, match="layer"):
            call()


@pytest.mark.parametrize(
    "options, message",
    [({"heads": 3}, "multiple of heads"), ({"attention_norm": "both"}, "attention_norm"), ({"bidirectional": True}, "even")],
)
def test_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        SRUppStack(9, DA, 2, **options)


@pytest.mark.parametrize("segment", [1, 2, 3, 5, 13])
@pytest.mark.parametrize("window", [0, 1, 4, 6, 100, None])
def test_cached_segments_do_not_depend_on_their_length(awake, segment, window):
    stack, x, state, out = stack_of(awake), inputs(13), None, []
    for start in range(0, 13, segment):
        h, state = stack.forward_cached(x[start : start + segment], state, window=window)
        out.append(h)
    whole, _ = stack.forward_cached(x, window=window)
    torch.testing.assert_close(torch.cat(out), whole)
    if window is None or window >= 12:
        torch.testing.assert_close(whole, stack(x))
    else:
        assert not torch.allclose(whole, stack(x))


@pytest.mark.parametrize("window", [0, 1, 3])
def test_a_position_sees_exactly_its_window(awake, window):
    """One attending layer whose recurrence is switched off: what remains of x[s] in h[t] came through attention."""
    stack = stack_of(awake, 1)
    layer = stack.layers[0]
    with torch.no_grad():
        layer.weight_c.zero_()
        layer.bias[0].fill_(-1e4)
    x = inputs(8).requires_grad_()
    for t in range(8):
        (gradient,) = torch.autograd.grad(stack.forward_cached(x, window=window)[0][t].sum(), x)
        seen = [s for s in range(8) if gradient[s].abs().max() > 0]
        assert seen == list(range(max(0, t - window), t + 1))


@pytest.mark.parametrize("mem_len", [1, 3, 4, 7, 100])
def test_training_memory_holds_the_inputs_of_the_last_positions(awake, mem_len):
    stack, x = stack_of(awake, 1), inputs(12)
    state, c = None, None
    for start in range(0, 12, 4):
        h, state = stack.forward_segment(x[start : start + 4], state, mem_len=mem_len)
        memory = x[max(0, start - mem_len) : start]
        torch.testing.assert_close(h, layer_by_the_paper(stack.layers[0], x[start : start + 4], memory, c))
        c = state[0].c
        assert torch.equal(state[0].memory, x[max(0, start + 4 - mem_len) : start + 4])


def test_a_segment_can_run_again_from_its_entry_state(awake):
    stack, x = stack_of(awake), inputs(12)
    with torch.no_grad():
        for run in (stack.forward_segment, stack.forward_cached):
            kept = {"mem_len": 5} if run == stack.forward_segment else {"window": 5}
            _, entry = run(x[:4], **kept)
            first, after = run(x[4:8], entry, **kept)
            beyond, _ = run(x[8:], after, **kept)
            other, _ = run(x[4:8] + 1, entry, **kept)
            again, after_again = run(x[4:8], entry, **kept)
            assert torch.equal(first, again) and not torch.allclose(first, other)
            assert torch.equal(beyond, run(x[8:], after_again, **kept)[0])
            assert torch.equal(beyond, run(x[8:], after, **kept)[0]), "a state must not change when its past is run again"


def test_gradients_reach_the_projections_of_the_memory_but_not_the_memory(awake):
    stack, x = stack_of(awake, 2), inputs(8).requires_grad_()
    _, state = stack.forward_segment(x[:2], mem_len=4)
    _, state = stack.forward_segment(x[2:4], state, mem_len=4)
    assert all(not layer.memory.requires_grad and not layer.c.requires_grad for layer in state)
    (first,) = torch.autograd.grad(stack.forward_segment(x[4:], state, mem_len=4)[0].sum(), x)
    assert first[:4].abs().max() == 0 and first[4:].abs().min() > 0
    kv = stack.layers[0].transform.kv_proj.weight
    (with_memory,) = torch.autograd.grad(stack.forward_segment(x[4:], state, mem_len=4)[0].sum(), kv)
    own = SRUppStack.forward_segment(stack, x[4:], [layer._replace(memory=None) for layer in state], mem_len=4)[0]
    assert not torch.allclose(with_memory, torch.autograd.grad(own.sum(), kv)[0])


def test_causality_and_reach(awake):
    x = inputs(6).requires_grad_()
    for causal in (True, False):
        stack = stack_of(awake, causal=causal, bidirectional=not causal)
        (gradient,) = torch.autograd.grad(stack(x)[2, 0].sum(), x)
        reached = gradient[:, 0].abs().amax(1) > 0
        assert reached.tolist() == [True] * 3 + [not causal] * 3
        assert gradient[:, 1].abs().max() == 0, "sentences of a batch must not see each other"


def test_source_states_are_seen_by_every_position_and_only_attended_to(awake):
    stack, x, source = stack_of(awake, 2), inputs(5), inputs(4, seed=3).requires_grad_()
    out = stack(x, source=source)
    assert torch.autograd.grad(out[0].sum(), source, retain_graph=True)[0].abs().min() > 0
    assert not torch.allclose(out, stack(x))
    with torch.no_grad():
        for layer in stack.layers:
            layer.transform.alpha.zero_()
        torch.testing.assert_close(stack(x, source=source), stack(x))


@pytest.mark.parametrize("left", [True, False])
def test_padding_is_nothing(awake, left):
    length = 7
    where = slice(3, None) if left else slice(0, 4)
    padding = torch.ones(length, 2, dtype=torch.bool)
    padding[where, 0] = False
    padding[:, 1] = False
    for causal in (True, False):
        stack = stack_of(awake, causal=causal, bidirectional=not causal)
        x = inputs(length)
        out = stack(x, padding_mask=padding)
        torch.testing.assert_close(out[where, :1], stack(x[where, :1]))
        torch.testing.assert_close(out[:, 1:], stack(x[:, 1:]))
        assert (out[padding] == 0).all()
        poisoned = x.masked_fill(padding.unsqueeze(-1), math.nan)
        assert torch.equal(out, stack(poisoned, padding_mask=padding))
    source_padding = torch.zeros(5, 2, dtype=torch.bool)
    source_padding[:2, 0] = True
    decoder, source = stack_of(awake), inputs(5, seed=4)
    out = decoder(x, source=source, source_padding_mask=source_padding)
    torch.testing.assert_close(out[:, :1], decoder(x[:, :1], source=source[2:, :1]))


@pytest.mark.parametrize("causal", [True, False])
def test_a_fully_padded_row_gives_zeros(awake, causal):
    stack = stack_of(awake, causal=causal, bidirectional=not causal).train()
    x, padding = inputs(5).requires_grad_(), torch.zeros(5, 2, dtype=torch.bool)
    padding[:, 1] = True
    options = {"source": inputs(3), "source_padding_mask": padding[:3]} if causal else {}
    out = stack(x, padding_mask=padding, **options)
    assert (out[:, 1] == 0).all() and out.isfinite().all()
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in stack.parameters() if p.grad is not None) and x.grad.isfinite().all()


def steps_of_layers(stack, x):
    """What each layer adds to its input."""
    steps = []
    hooks = [layer.register_forward_hook(lambda _, given, got: steps.append(got[0] - given[0])) for layer in stack.layers]
    stack(x)
    for hook in hooks:
        hook.remove()
    return steps


def test_dropout_of_the_highway_is_one_mask_for_all_steps_and_absent_in_the_last_layer():
    stack, x = SRUppStack(64, DA, 3, attention_layers=[], dropout=0.5).train(), torch.randn(6, 3, 64)
    *untouched, last = [(step == 0).all(0) for step in steps_of_layers(stack, x)]
    for mask in untouched:
        assert 0.3 < mask.float().mean() < 0.7
        assert not torch.equal(mask[0], mask[1]), "each sequence has a mask of its own"
    assert not torch.equal(*untouched), "each layer has a mask of its own"
    assert not last.any()
    assert not any((step == 0).all(0).any() for step in steps_of_layers(stack.eval(), x))


def test_activation_checkpointing_changes_nothing():
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(3)
        stack = SRUppStack(D, DA, 3, dropout=0.3, attention_dropout=0.2, checkpoint_activations=checkpoint).double().train()
        with torch.no_grad():
            for layer in stack.layers:
                layer.transform.alpha.fill_(0.8)
        torch.manual_seed(4)
        _, state = stack.forward_segment(inputs(4), mem_len=4)
        h, state = stack.forward_segment(inputs(4, seed=5), state, mem_len=4)
        h.square().sum().backward()
        gradients.append([h, state[2].c, *(p.grad for p in stack.parameters())])
    for kept, recomputed in zip(*gradients):
        assert torch.equal(kept, recomputed)


def test_half_precision_and_autocast_follow_single_precision(awake):
    stack, x = stack_of(awake).float(), inputs(7).float()
    expected = stack(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert F.mse_loss(stack(x).float(), expected) < 1e-3
    assert F.mse_loss(stack.bfloat16()(x.bfloat16()).float(), expected) < 1e-3


def test_a_state_of_another_precision_can_be_continued(awake):
    stack, x = stack_of(awake), inputs(8)
    _, state = stack.forward_segment(x[:4], mem_len=4)
    expected, _ = stack.forward_segment(x[4:], state, mem_len=4)
    single = [layer._replace(c=layer.c.float()) for layer in state]
    out, _ = stack.bfloat16().forward_segment(x[4:].bfloat16(), single, mem_len=4)
    assert F.mse_loss(out.double(), expected) < 1e-3


def test_the_state_passes_through_padding_at_the_end(awake):
    stack, x = stack_of(awake), inputs(6)
    padding = torch.zeros(6, 2, dtype=torch.bool)
    padding[4:] = True
    for run, options in ((stack.forward_segment, {"mem_len": 4}), (stack.forward_cached, {})):
        _, padded = run(x, padding_mask=padding, **options)
        _, short = run(x[:4], **options)
        for a, b in zip(padded, short):
            torch.testing.assert_close(a.c, b.c)


def test_the_highway_mask_keeps_the_mean():
    stack, x = SRUppStack(20_000, DA, 2, attention_layers=[], dropout=0.5).train(), torch.randn(1, 1, 20_000)
    for layer in stack.layers:
        layer.transform.dropout.p = 0.0
    kept, everything = steps_of_layers(stack, x)[0], steps_of_layers(stack.eval(), x)[0]
    touched = kept != 0
    torch.testing.assert_close(kept[touched], 2 * everything[touched], rtol=1e-3, atol=1e-5)


def test_shapes_alone_can_be_computed():
    stack = SRUppStack(D, DA, 2).to("meta")
    h, state = stack.forward_segment(torch.empty(5, 2, D, device="meta"), mem_len=5)
    assert h.shape == (5, 2, D) and stack(h).is_meta and state[0].memory.is_meta
