"""fairseq-eval-lm gives one result, under the name that the field has for it.

fairseq (0.12) prints "Loss (base 2)" and "Perplexity" whatever the tokens are: bits per character of byte data and
perplexity per word of others are added. And of several processes, which it starts on a machine with several GPUs, each
prints the loss of its own part of the text: they are put together. May go when fairseq does both.
"""

import logging

from ..compat.patch import wrap_command
from ..data.byte_symbols import all_bytes

logger = logging.getLogger(__name__)


@wrap_command("eval_lm", "eval_lm")
def _named(original, models, source_dictionary, batch_iterator, *args, **kwargs):
    tokens = 0

    def counted():
        nonlocal tokens
        for sample in batch_iterator:
            tokens += sample.get("ntokens", 0)
            yield sample

    results = _of_all_processes(original(models, source_dictionary, counted(), *args, **kwargs), lambda: tokens)
    dictionary = kwargs.get("target_dictionary") or source_dictionary
    if all_bytes(dictionary.symbols):
        logger.info(f"bpc: {float(results['loss']):.4f}")
    else:
        logger.info(f"ppl: {float(results['perplexity']):.3f} per word")
    return results


def _of_all_processes(results, tokens):
    import torch.distributed
    from fairseq.distributed import utils

    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return results
    parts = utils.all_gather_list((float(results["loss"]), int(tokens())), utils.get_global_group())
    scored = sum(count for _, count in parts)
    loss = sum(loss * count for loss, count in parts) / max(1, scored)
    logger.info(f"{scored:,} tokens were scored by {len(parts)} processes, the result is of all of them")
    return {"loss": loss, "perplexity": 2**loss}
