"""`--output-dictionary-size`: words that are not in the output dictionary are still read.

fairseq (0.12) replaces them by `<unk>` in the targets, in place; in all blocks but those that begin with a sentence the
inputs are the same memory, so most inputs lose these words as well, without a word. May go when the targets are copied.
"""

from fairseq_srupp.compat.patch import wrap


def apply() -> None:
    from fairseq.data import MonolingualDataset

    @wrap(MonolingualDataset, "_filter_vocab")
    def filter_vocab(original, self, target):
        if len(self.tgt_vocab) != len(self.vocab):
            target = [t.clone() for t in target] if isinstance(target, list) else target.clone()
        return original(self, target)
