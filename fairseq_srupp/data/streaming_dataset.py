"""One stream of tokens as rows read side by side, a segment at a time (truncated back-propagation through time)."""

from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Tuple, Union

import numpy as np
import torch
from fairseq.data import FairseqDataset

from .token_stream import ShuffledStream, TokenStream


class SegmentKey(NamedTuple):
    """Names a segment of a stream: the next one continues it. A named tuple, which pin_memory keeps a tuple."""

    split: str
    epoch: int
    segment: int


@dataclass(frozen=True)
class RowLayout:
    """How the N - 1 pairs of input and target in N tokens are laid out in rows and segments.

    Row r holds pairs r * length to (r + 1) * length - 1, segment s of a row its columns s * T to (s + 1) * T - 1; the
    last segment may be shorter. Where there are fewer pairs than places, the last rows end early or are empty.

    Args:
        pairs: N - 1.
        rows: R, of all ranks together.
        length: pairs per row.
        tokens_per_sample: T.
    """

    pairs: int
    rows: int
    length: int
    tokens_per_sample: int

    @classmethod
    def evaluation(cls, pairs: int, rows: int, tokens_per_sample: int) -> "RowLayout":
        """Rows that hold every pair."""
        return cls(pairs, rows, -(-pairs // rows), tokens_per_sample)

    @classmethod
    def training(cls, pairs: int, rows: int, tokens_per_sample: int) -> "RowLayout":
        """Rows of equal length, which leave out the last `trimmed` pairs."""
        return cls(pairs, rows, pairs // rows, tokens_per_sample)

    @property
    def segments(self) -> int:
        """Segments per row."""
        return -(-self.length // self.tokens_per_sample)

    @property
    def trimmed(self) -> int:
        """Pairs that stand in no row."""
        return max(0, self.pairs - self.rows * self.length)

    def width(self, segment: int) -> int:
        """Columns of a segment."""
        return min(self.tokens_per_sample, self.length - segment * self.tokens_per_sample)

    def span(self, row: int, segment: int) -> Tuple[int, int]:
        """The first pair of a row's segment and the one after the last; equal if the row is over."""
        start = row * self.length + segment * self.tokens_per_sample
        return min(start, self.pairs), min(start + self.width(segment), self.pairs)


class StreamingDataset(FairseqDataset):
    """The segments of some rows of a stream; item s is segment s of all of them, as a batch.

    Args:
        stream: N tokens.
        split: name of the stream in the keys of its segments.
        tokens_per_sample: T.
        pad: index of the padding symbol.
        layout: rows of the whole stream; None: a single one.
        first_row, row_count: the rows that this data-parallel rank owns; None: all.
        keyed: tell the model which segment it is; models without memory do not take a key.
        shuffle_seed: every epoch has the sentences of the stream in an order of its own, made from this number and the
            epoch's; None: as they are.
    """

    def __init__(
        self,
        stream: TokenStream,
        split: str,
        tokens_per_sample: int,
        pad: int,
        layout: Optional[RowLayout] = None,
        first_row: int = 0,
        row_count: Optional[int] = None,
        keyed: bool = True,
        shuffle_seed: Optional[int] = None,
    ):
        self.stream = stream
        self.split = split
        self.tokens_per_sample = tokens_per_sample
        self.pad = pad
        self.layout = layout or RowLayout.evaluation(len(stream) - 1, 1, tokens_per_sample)
        self.rows = range(first_row, first_row + (self.layout.rows if row_count is None else row_count))
        self.keyed = keyed
        self.shuffle_seed = shuffle_seed
        self.epoch = 1
        self._shuffled: Optional[ShuffledStream] = None  # of this epoch

    def __len__(self) -> int:
        return self.layout.segments

    def set_epoch(self, epoch: int) -> None:
        """The epoch of the items from now on, in their keys and for their order."""
        if epoch != self.epoch:
            self._shuffled = None
        self.epoch = epoch

    def _text(self) -> Union[TokenStream, ShuffledStream]:
        if self.shuffle_seed is None:
            return self.stream
        if self._shuffled is None:
            self._shuffled = ShuffledStream(self.stream, (self.shuffle_seed % (1 << 32), self.epoch))
        return self._shuffled

    def __getitem__(self, segment: int) -> Dict[str, Any]:
        """A segment of all B rows, W <= T columns wide.

        Returns:
            id: (B,), position of each row's segment in the text, counted in segments.
            nsentences: B.  ntokens: targets that are not padding.
            net_input: src_tokens (B, W), src_lengths (B,), and if keyed, stream: the segment's key.
            target: (B, W): what follows each input token.
        """
        width = self.layout.width(segment)
        spans = np.array([self.layout.span(row, segment) for row in self.rows])
        lengths = spans[:, 1] - spans[:, 0]
        positions = spans[:, :1] + np.arange(width + 1)
        tokens = torch.from_numpy(self._text().take(np.minimum(positions, self.layout.pairs)))
        padding = torch.from_numpy(np.arange(width) >= lengths[:, None])
        source = tokens[:, :-1].masked_fill(padding, self.pad)
        target = tokens[:, 1:].masked_fill(padding, self.pad)
        net_input: Dict[str, Any] = {"src_tokens": source, "src_lengths": torch.from_numpy(lengths)}
        if self.keyed:
            net_input["stream"] = SegmentKey(self.split, self.epoch, segment)
        return {
            "id": torch.tensor(self.rows) * self.layout.segments + segment,
            "nsentences": len(self.rows),
            "ntokens": int(lengths.sum()),
            "net_input": net_input,
            "target": target,
        }

    def collater(self, samples: List[Dict[str, Any]]) -> Dict[str, Any]:
        """The one item of a batch, which is a batch already."""
        (sample,) = samples
        return sample

    def num_tokens(self, index: int) -> int:
        """Tokens in item `index`, padding included."""
        return len(self.rows) * self.layout.width(index)

    def size(self, index: int) -> int:
        """Columns of item `index`."""
        return self.layout.width(index)
