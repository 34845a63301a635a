"""`python -m fairseq_srupp`: see cli/."""

import os
import sys

from fairseq_srupp.cli import main

try:
    status = main()
    sys.stdout.flush()
except BrokenPipeError:  # who read the output, as `head`, has read enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
    status = 1
sys.exit(status)
