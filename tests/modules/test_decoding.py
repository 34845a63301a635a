"""Decoding step by step: the same as the full pass whatever a search does with its rows, and no cache copied for it."""

import pytest
import torch
from small_stack import D, inputs, stack_of

# What rows of 3 sentences do in a search: (step, order). The last of each leave their sentence's beam, or their sentence.
SEARCHES = {
    1: [(2, [1, 1, 0]), (4, [2, 0, 0]), (6, [1, 2])],
    2: [(1, [1, 1, 2, 3, 5, 4]), (3, [0, 0, 4, 4]), (5, [3, 2]), (7, [1, 0])],
    3: [(2, [2, 0, 0, 3, 5, 5, 8, 8, 8]), (3, [5, 4, 3, 6, 6, 7]), (5, [0, 3, 1, 4, 5, 2]), (7, [0, 2])],
}


@pytest.mark.parametrize("beam", SEARCHES)
@pytest.mark.parametrize(
    "options", [{"heads": 2}, {"attention_layers": [2]}, {"independent_query": True, "attention_norm": "pre"}]
)
@pytest.mark.parametrize("padded", [True, False])
def test_step_by_step_equals_full_with_rows_reordered_and_removed(awake, beam, options, padded):
    stack, source = stack_of(awake, **options), inputs(5, 3, seed=3)
    source_padding = None
    if padded:
        source_padding = torch.zeros(5, 3, dtype=torch.bool)
        source_padding[:2, 1] = True
    x, orders = inputs(9, 3 * beam), dict(SEARCHES[beam])
    rows = torch.arange(3).repeat_interleave(beam)
    with torch.no_grad():
        state = stack.begin_decoding(3, beam, source=source, source_padding_mask=source_padding)
        for t in range(9):
            if t in orders:
                order = torch.tensor(orders[t])
                state, rows, x = state.reorder(order), rows[order], x.clone()[:, order]
                x[t] = torch.randn(x[t].shape, dtype=x.dtype)  # equal rows part
            h, state = stack.forward_decoding(x[t : t + 1], state)
            own_padding = None if source_padding is None else source_padding[:, rows]
            full = stack(x[: t + 1], source=source[:, rows], source_padding_mask=own_padding)
            torch.testing.assert_close(h[0], full[t], rtol=0, atol=1e-12)


@pytest.mark.parametrize("beam", SEARCHES)
def test_decoding_with_a_window_equals_evaluation(awake, beam):
    stack, x, orders = stack_of(awake), inputs(14, 3 * beam), dict(SEARCHES[beam])
    with torch.no_grad():
        h, state = stack.forward_decoding(x[:4], stack.begin_decoding(3, beam), window=3)
        torch.testing.assert_close(h, stack.forward_cached(x[:4], window=3)[0], rtol=0, atol=1e-12)
        for t in range(4, 14):
            if t - 3 in orders:
                order = torch.tensor(orders[t - 3])
                state, x = state.reorder(order), x.clone()[:, order]
                x[t] = torch.randn(x[t].shape, dtype=x.dtype)
            h, state = stack.forward_decoding(x[t : t + 1], state, window=3)
            whole, _ = stack.forward_cached(x[: t + 1], window=3)
            torch.testing.assert_close(h[0], whole[t], rtol=0, atol=1e-12)


@pytest.mark.parametrize("beam", SEARCHES)
@pytest.mark.parametrize("window", [None, 3])
def test_texts_of_several_lengths_decode_as_each_alone(awake, beam, window):
    """Padding on the left, which neither attention nor recurrence sees."""
    stack, orders, lengths = stack_of(awake, heads=2), dict(SEARCHES[beam]), [6, 1, 4]
    x, rows = inputs(15, 3 * beam), torch.arange(3).repeat_interleave(beam)
    begins = torch.tensor([6 - n for n in lengths])[rows]
    with torch.no_grad():
        padding = torch.arange(6)[:, None] < begins
        h, state = stack.forward_decoding(x[:6], stack.begin_decoding(3, beam), window=window, padding_mask=padding)
        assert (h[padding] == 0).all()
        for t in range(6, 15):
            if t - 6 in orders:
                order = torch.tensor(orders[t - 6])
                state, begins, x = state.reorder(order), begins[order], x.clone()[:, order]
                x[t] = torch.randn(x[t].shape, dtype=x.dtype)
            h, state = stack.forward_decoding(x[t : t + 1], state, window=window)
            for row, begin in enumerate(begins.tolist()):
                alone, _ = stack.forward_cached(x[begin : t + 1, row : row + 1], window=window)
                torch.testing.assert_close(h[0, row], alone[-1, 0], rtol=0, atol=1e-12)


def test_decoding_does_not_copy_the_cache_at_each_step(awake):
    """Neither when it grows nor when the rows of a sentence change places."""
    stack, moved, place = stack_of(awake, 1), 0, None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        state = stack.begin_decoding(2, 4, source=inputs(30, 2))
        for _ in range(300):
            _, state = stack.forward_decoding(inputs(1, 8), state)
            order = torch.cat([4 * group + torch.randint(4, (4,), generator=generator) for group in range(2)])
            state = state.reorder(order)
            moved += place != state.layers[0].memory.keys.data_ptr()
            place = state.layers[0].memory.keys.data_ptr()
    assert moved <= 8


def test_a_window_bounds_what_decoding_keeps(awake):
    stack = stack_of(awake, 1)
    state = stack.begin_decoding(2)
    with torch.no_grad():
        for _ in range(500):
            _, state = stack.forward_decoding(inputs(1), state, window=10)
    cache = state.layers[0].memory
    assert state.beams.slots.shape == (2, 1, 10)
    assert len(cache) == 10 and cache._buffer.data.size(3) <= 4 * 11


@pytest.mark.parametrize("norm", ["post", "pre", "none"])
@pytest.mark.parametrize("independent", [False, True])
def test_decoding_with_a_source_in_every_variant(awake, norm, independent):
    stack = stack_of(awake, attention_norm=norm, independent_query=independent)
    x, source = inputs(5), inputs(4, seed=3)
    with torch.no_grad():
        state, out = stack.begin_decoding(2, source=source), []
        for t in range(5):
            h, state = stack.forward_decoding(x[t : t + 1], state)
            out.append(h)
        torch.testing.assert_close(torch.cat(out), stack(x, source=source))


class Search:
    """Rows whose search goes at random, the state of the stack and, to compare, everything that the rows have read."""

    def __init__(self, stack, sentences, beam, seed, window=None, source=None, padding=None):
        self.stack, self.beam, self.window, self.source, self.padding = stack, beam, window, source, padding
        self.random = torch.Generator().manual_seed(seed)
        self.state = stack.begin_decoding(sentences, beam, source=source, source_padding_mask=padding)
        self.sentence = torch.arange(sentences).repeat_interleave(beam)
        self.read = torch.empty(0, sentences * beam, D, dtype=torch.double)

    def step(self):
        x = torch.randn(1, self.sentence.numel(), D, generator=self.random, dtype=torch.double)
        self.read = torch.cat((self.read, x))
        h, self.state = self.stack.forward_decoding(x, self.state, window=self.window)
        if self.source is None:
            full, _ = self.stack.forward_cached(self.read, window=self.window)
        else:
            padding = None if self.padding is None else self.padding[:, self.sentence]
            full = self.stack(self.read, source=self.source[:, self.sentence], source_padding_mask=padding)
        torch.testing.assert_close(h[0], full[-1], rtol=0, atol=1e-12)

    def go_on_with(self, sentences):
        """The numbers of sentences; of each, its rows at random, some twice."""
        rows = torch.randint(self.beam, (len(sentences), self.beam), generator=self.random)
        order = (torch.tensor(sentences, dtype=torch.long).view(-1, 1) * self.beam + rows).flatten()
        self.state, self.sentence = self.state.reorder(order), self.sentence[order]
        self.read = self.read[:, order]

    def storages(self):
        return [layer.memory.keys.untyped_storage().data_ptr() for layer in self.state.layers if layer.memory is not None]


# Which of the sentences that are left go on after each step: all, not the first, not the last, in other order, some
# twice, the last alone; the buffer grows in between.
COURSES = {
    "one by one": [range(6), [1, 2, 3, 4, 5], range(5), [0, 1, 3, 4], range(4), [0, 2, 3], [1, 2], [1], [0], [0], [0], [0]],
    "the last": [range(6), [5], [0], [0], [0], [0], [0], [0]],
    "many at once": [[0, 2, 4, 5], range(4), [2, 3], *[range(2)] * 9, [0], [0]],
    "in other order": [[5, 2, 0, 3], [3, 0, 2, 1], [1, 3], [1, 0], [0, 1], [1], [0]],
    "twice": [[1, 3, 5], [2, 2, 0, 1], [1, 2, 3], [0, 2], [1, 1, 1], [0, 2], [1], [0]],
    "none": [[1, 2, 5], []],
}


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("kind", ["source", "padded source", "window", "no source"])
def test_sentences_that_end_change_nothing_for_the_others(awake, course, beam, kind):
    stack, options = stack_of(awake, heads=2, attention_layers=[1, 3]), {}
    if kind in ("source", "padded source"):
        options["source"] = inputs(5, 6, seed=3)
    if kind == "padded source":
        options["padding"] = torch.arange(5).view(-1, 1) < torch.tensor([0, 3, 1, 0, 4, 2])
    with torch.no_grad():
        search = Search(stack, 6, beam, seed=4, window=3 if kind == "window" else None, **options)
        for sentences in COURSES[course]:
            search.step()
            search.go_on_with(sentences)
        if len(sentences):
            search.step()
        assert search.state.beams.slots.shape[:2] == (len(sentences), beam)
        assert all(layer.memory is None or layer.memory.keys.size(0) == len(sentences) for layer in search.state.layers)


@pytest.mark.parametrize("seed", range(8))
def test_searches_at_random(awake, seed):
    stack, source = stack_of(awake, heads=2), inputs(5, 8, seed=3)
    padding = torch.arange(5).view(-1, 1) < torch.arange(8) % 5
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        search, left = Search(stack, 8, 2, seed, source=source, padding=padding), 8
        for _ in range(16):
            search.step()
            stay = [i for i in range(left) if torch.rand((), generator=random) < 0.85] or [left - 1]
            search.go_on_with(stay)
            left = len(stay)
    assert left < 8


@pytest.mark.parametrize("padded", [True, False])
def test_no_more_sentences_are_copied_than_have_ended(awake, padded):
    """The buffers stay where they are, and what changes in them is at most one row for each sentence left out."""
    padding = torch.arange(30).view(-1, 1) < torch.arange(8) if padded else None
    with torch.no_grad():
        search = Search(stack_of(awake, 2), 8, 2, seed=5, source=inputs(30, 8, seed=3), padding=padding)
        search.step()
        search.step()
        places, left = search.storages(), 8
        for stay in ([0, 1, 2, 3, 4, 6], [0, 2, 3, 4, 5], range(5), [4, 2, 3], range(3), [0, 2], [1]):
            # as integers: what no step has written yet may be NaN
            whole = [layer.memory._buffer.data.view(torch.int64) for layer in search.state.layers]
            before = [data.clone() for data in whole]
            search.go_on_with(stay)
            assert search.storages() == places
            for data, old in zip(whole, before):
                changed = (data != old).transpose(0, 1).flatten(1).any(1)
                assert changed.sum() <= left - len(stay)
            left = len(stay)
            search.step()
        assert search.storages() == places


def test_a_cache_whose_rows_have_moved_cannot_be_used(awake):
    stack, x = stack_of(awake), inputs(4, 4)
    with torch.no_grad():
        _, older = stack.forward_decoding(x[:1], stack.begin_decoding(4, source=inputs(3, 4)))
        _, state = stack.forward_decoding(x[1:2], older)
        same = state.reorder(torch.tensor([3, 2, 1, 0]))
        torch.testing.assert_close(
            stack.forward_decoding(x[2:3, [3, 2, 1, 0]], same)[0], stack.forward_decoding(x[2:3], state)[0][:, [3, 2, 1, 0]]
        )
        state.reorder(torch.tensor([1, 3]))
        for spent in (older, state, same):
            with pytest.raises(RuntimeError, match="spent"):
                stack.forward_decoding(x[2:3], spent)


def test_gradients_pass_through_decoding_with_sentences_left_out(awake):
    stack, x, source = stack_of(awake), inputs(4, 6).requires_grad_(), inputs(3, 3, seed=3).requires_grad_()
    _, state = stack.forward_decoding(x[:2], stack.begin_decoding(3, 2, source=source))
    for order in ([3, 2, 5, 5], [1, 0]):
        state = state.reorder(torch.tensor(order))
    h, _ = stack.forward_decoding(x[2:, :2], state)
    read = torch.cat((x[:2, [2, 3]], x[2:, :2]))
    full = stack(read, source=source[:, [1, 1]])[2:]
    torch.testing.assert_close(h, full)
    for one, other in zip(*(torch.autograd.grad(out.square().sum(), (x, source)) for out in (h, full))):
        torch.testing.assert_close(one, other)
    # with sentences that stand elsewhere in the cache
    _, state = stack.forward_decoding(x[:2], stack.begin_decoding(3, 2, source=source))
    h, _ = stack.forward_decoding(x[2:, :4], state.reorder(torch.tensor([5, 4, 0, 1])))
    full = stack(torch.cat((x[:2, [5, 4, 0, 1]], x[2:, :4])), source=source[:, [2, 2, 0, 0]])[2:]
    for one, other in zip(*(torch.autograd.grad(out.square().sum(), (x, source)) for out in (h, full))):
        torch.testing.assert_close(one, other)
