"""python load_all.py FILE...: loads checkpoints and uses what comes out; prints "loaded" or the UserError of each.

A process of its own, because what it is to find ends the process.
"""

import copy
import io
import resource
import sys

import torch

from fairseq_srupp.compat.errors import UserError
from fairseq_srupp.compat.files import weights_only

if __name__ == "__main__":
    _, at_most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, at_most))
    for path in sys.argv[1:]:
        try:
            loaded = weights_only.load(path)
            repr(loaded)
            torch.save(copy.deepcopy(loaded), io.BytesIO())
            print("loaded", flush=True)
        except UserError as error:
            print(error, flush=True)
