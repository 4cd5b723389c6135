"""`python -m vtn_hf.commands NAME …` is `vtn NAME …`."""

import sys

from vtn_cli import main


if __name__ == "__main__":
    sys.exit(main())
