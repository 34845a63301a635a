"""No sentence is lost when batches are made.

fairseq's `batch_by_size` (0.12.2 and later; facebookresearch/fairseq#5036) drops the last batch when its
size is not a multiple of `--required-batch-size-multiple`, which is 8 by default: fairseq-generate leaves up
to a batch of test sentences untranslated, validation and fairseq-validate leave them unscored, without a
word; with no sentences at all it fails with an IndexError. May go when the last batch is kept.
"""

import numpy

from fairseq_srupp.compat.patch import wrap


def apply() -> None:
    from fairseq.data import data_utils

    @wrap(data_utils, "batch_by_size")
    def batch_by_size(original, indices, *args, **kwargs):
        if not isinstance(indices, numpy.ndarray):
            indices = numpy.fromiter(indices, dtype=numpy.int64, count=-1)
        if len(indices) == 0:
            return []
        batches = original(indices, *args, **kwargs)
        batched = sum(len(batch) for batch in batches)  # batches are consecutive pieces of `indices`
        if kwargs.get("fixed_shapes") is None and batched < len(indices):
            batches = [*batches, indices[batched:]]
        return batches
