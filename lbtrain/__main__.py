"""python -m lbtrain: the same as the command `lbtrain`."""

import sys

from lbtrain.cli import main

sys.exit(main())
