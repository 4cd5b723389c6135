"""
Converts checkpoints of the original VTN to this package and back, as `python -m vtn_hf.convert_vtn_checkpoint` does.

    vtn convert VTN_VIT_B_KINETICS.pyth OUT_DIR
    vtn convert --to_original MODEL_DIR CHECKPOINT.pyth
"""

import sys

from ..convert_vtn_checkpoint import add_arguments, convert
from .console import CommandParser, command


def make_parser() -> CommandParser:
    parser = CommandParser("convert", __doc__)
    add_arguments(parser)
    return parser


@command("convert")
def main(argv: list[str] | None = None):
    """Converts as the arguments say."""
    convert(make_parser().parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
