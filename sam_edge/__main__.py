"""`python -m sam_edge`: the same as the `sam-edge` command."""

import sys

from sam_edge.cli import main

sys.exit(main())
