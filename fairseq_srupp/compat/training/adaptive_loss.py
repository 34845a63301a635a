"""`--criterion adaptive_loss` scores every word, and adds the losses up in fp32.

fairseq (0.12) ignores the padding's index, 1, in every band of the adaptive softmax, though targets in a tail are
counted from the tail's start: the second word of each tail costs nothing, but is counted. And it sums in the precision of
the features, so a sum over a batch is coarse in bf16 and infinite above 65,504 in fp16. May go when `ignore_index` is used
for the head alone and the sum is fp32.
"""

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.patch import wrap

_NOTHING = -100  # F.cross_entropy's own default: no target is this


def apply() -> None:
    import torch.nn.functional as F
    from fairseq.criterions.adaptive_loss import AdaptiveLoss

    @wrap(AdaptiveLoss, "forward")
    def forward(original, self, model, sample, reduce=True):
        adaptive_softmax = getattr(model.decoder, "adaptive_softmax", None)
        if adaptive_softmax is None:
            raise UserError("--criterion adaptive_loss needs a model with --adaptive-softmax-cutoff")
        net_output = model(**sample["net_input"])
        target = model.get_targets(sample, net_output)
        scores, targets = adaptive_softmax(net_output[0], target.reshape(-1))
        # the head has all positions, a tail those whose target is in it
        loss = _cross_entropy(F, scores[0], targets[0], self.padding_idx, reduce)
        for band, (tail, tail_target) in enumerate(zip(scores[1:], targets[1:]), start=1):
            if tail_target is None:  # fairseq's softmax without a target in this tail; ours has scores of none
                continue
            cost = _cross_entropy(F, tail, tail_target, _NOTHING, reduce)
            if reduce:
                loss = loss + cost
            else:
                loss[targets[0].eq(_tail_entry(scores, band))] += cost
        tokens = sample["ntokens"]  # counting them here would wait for the GPU
        sample_size = target.size(0) if self.sentence_avg else tokens
        logging_output = {
            "loss": loss.data,
            "ntokens": tokens,
            "nsentences": target.size(0),
            "sample_size": sample_size,
        }
        return loss, sample_size, logging_output


def _cross_entropy(F, scores, target, ignore_index, reduce):
    wide = scores.float() if scores.element_size() < 4 else scores
    return F.cross_entropy(wide, target, ignore_index=ignore_index, reduction="sum" if reduce else "none")


def _tail_entry(scores, band):
    """The head's last entries are the tails'."""
    return scores[0].size(1) - len(scores) + band
