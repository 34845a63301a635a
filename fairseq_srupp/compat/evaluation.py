"""fairseq-eval-lm names its result as the field does: bits per character of byte data, perplexity per word of others.

fairseq (0.12) prints "Loss (base 2)" and "Perplexity" whatever the tokens are, and has no hook. May go when a task can
say what is printed.
"""

import logging

from fairseq_srupp.compat.patch import entry_points, wrap

logger = logging.getLogger(__name__)


def apply() -> None:
    for module in entry_points("eval_lm"):
        wrap(module, "eval_lm")(_named)


def _named(original, models, source_dictionary, *args, **kwargs):
    from fairseq_srupp.data.byte_symbols import all_bytes

    results = original(models, source_dictionary, *args, **kwargs)
    dictionary = kwargs.get("target_dictionary") or source_dictionary
    if all_bytes(dictionary.symbols):
        logger.info(f"bpc: {float(results['loss']):.4f}")
    else:
        logger.info(f"ppl: {float(results['perplexity']):.3f} per word")
    return results
