"""`python -m grokdistill`."""

import sys

from grokdistill.cli import main

sys.exit(main())
