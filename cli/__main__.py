"""``python -m strongticket.cli``, the same as the command ``strongticket``."""

import sys

from .main import main

sys.exit(main())
