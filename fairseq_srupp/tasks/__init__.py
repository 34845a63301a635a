"""Tasks for fairseq's `--task`. fairseq imports every file of this folder, and that registers them."""

from fairseq_srupp import compat

compat.apply()

import fairseq_srupp.optim.cosine_annealing  # noqa: E402, F401  (registers --lr-scheduler cosine_annealing)
import fairseq_srupp.optim.radam  # noqa: E402, F401  (registers --optimizer radam)
import fairseq_srupp.tasks.evaluation  # noqa: E402, F401  (names what fairseq-eval-lm prints)
