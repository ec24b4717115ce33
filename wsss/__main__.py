"""``python -m wsss`` is ``wsss``."""

import sys

from wsss.cli import main

sys.exit(main())
