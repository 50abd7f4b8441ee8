"""`python -m excursions` is the command `excursions`."""

import sys

from excursions.cli import main

sys.exit(main())
