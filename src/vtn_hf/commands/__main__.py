"""`python -m vtn_hf.commands NAME …` is `vtn NAME …`."""

import sys

from vtn_cli import main


sys.exit(main())
