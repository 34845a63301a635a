"""`--diverse-beam-groups` works for more than the first batch.

fairseq (0.12) counts what groups of a sentence have in common in a table with a row for each sentence of the batch, and
looks there under the sentence's number in the data: an IndexError in all batches but the first ones, or another
sentence's counts. May go when `DiverseBeamSearch` counts sentences as its batch does.
"""

import torch

from fairseq_srupp.compat.patch import wrap


def apply() -> None:
    from fairseq.search import DiverseBeamSearch

    @wrap(DiverseBeamSearch, "step")
    def step(original, self, step, lprobs, scores, prev_output_tokens=None, original_batch_idxs=None):
        rows = torch.arange(lprobs.size(0), device=lprobs.device)  # the table is cut as the batch is, see below
        return original(self, step, lprobs, scores, prev_output_tokens, rows)

    @wrap(DiverseBeamSearch, "prune_sentences")
    def prune_sentences(original, self, batch_idxs):
        original(self, batch_idxs)
        self.group_overlap = self.group_overlap.index_select(0, batch_idxs)
