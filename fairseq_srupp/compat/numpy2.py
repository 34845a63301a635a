"""numpy 2 took away names that fairseq uses.

`np.compat.long` (gone in numpy 2.0) stands in fairseq's token_block_dataset, where fairseq-interactive
with a language model meets it, and in language_pair_dataset; `percentile(interpolation=)` (gone in numpy
2.4) in data_utils: both of these for `--num-batch-buckets`. Those modules get a numpy that still has the
names; numpy itself is left as it is. The removed names in fairseq's speech code stay broken, as other
things there are. May go when fairseq no longer uses them.
"""

import importlib
import types

import numpy

_MODULES = (
    "fairseq.data.token_block_dataset",
    "fairseq.data.language_pair_dataset",
    "fairseq.data.data_utils",
)


class NumpyBefore2(types.ModuleType):
    """numpy with `compat.long`, and `percentile` with the old name of its option `method`."""

    compat = types.SimpleNamespace(long=int)

    @staticmethod
    def percentile(a, q, interpolation="linear", **kwargs):
        return numpy.percentile(a, q, **{"method": interpolation, **kwargs})

    def __getattr__(self, name: str):
        return getattr(numpy, name)


def apply() -> None:
    old_numpy = NumpyBefore2("numpy")
    for name in _MODULES:
        importlib.import_module(name).np = old_numpy
