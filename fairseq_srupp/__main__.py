"""`python -m fairseq_srupp`: see cli/."""

import sys

from fairseq_srupp.cli import main

sys.exit(main())
