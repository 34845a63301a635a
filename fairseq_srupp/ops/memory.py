"""Memory that the C library keeps for the process.

glibc maps each block above 32 MiB anew and gives it back when it is freed, so that the system clears its pages at every
first touch: a training step asks for the same large blocks again and again. May go when torch's allocator for the CPU
keeps its blocks.
"""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h


def keep() -> bool:
    """Tells glibc to map no blocks and to give nothing back, for the rest of the process; whether that was done.

    FAIRSEQ_SRUPP_KEEP_MEMORY=0 in the environment leaves memory as it is. So do MALLOC_MMAP_THRESHOLD_, MALLOC_MMAP_MAX_
    and MALLOC_TRIM_THRESHOLD_, by which somebody has decided otherwise, and other C libraries than glibc.
    """
    decided = {"MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"} & set(os.environ)
    if os.environ.get("FAIRSEQ_SRUPP_KEEP_MEMORY") == "0" or decided or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))  # never trims
