"""
Exports a Video Transformer Network to ONNX, for any number of videos and frames, and compares ONNX Runtime with torch.

    pip install 'vtn-hf[onnx]'
    vtn export --model RUN --output_dir EXPORTED

EXPORTED then holds model.onnx with its weights, the configuration and the processors, or stays as it was if ONNX
Runtime differs. The graph takes `pixel_values`, `position_ids` and `attention_mask`, as VTNVideoProcessor gives them
for videos of unequal length; for one video the mask is all ones.
"""

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForVideoClassification

from .. import VTNForVideoClassification, VTNVideoProcessor
from ..outputs import check_outputs, writing_folder
from .arguments import add_shared
from .console import CommandParser, command


# Batches of videos, by their numbers of frames: the one to export with, of several attention blocks and with padding,
# as a dimension of size 1 would be taken for a constant; and those to compare on.
EXAMPLE = [100, 70]
COMPARED = ([20, 33], [1], [64], [7, 7, 3], [250])


def make_inputs(model: VTNForVideoClassification, num_frames: list[int], side: int) -> dict[str, Any]:
    """Random frames of `side` x `side` pixels, of as many videos as there are numbers of frames."""
    generator = torch.Generator().manual_seed(0)
    longest = max(num_frames)
    frame = torch.arange(longest)
    num_channels = getattr(model.config.backbone_config, "num_channels", 3)
    return {
        "pixel_values": torch.randn(len(num_frames), longest, num_channels, side, side, generator=generator),
        # Every third frame of a longer video: further than the position table reaches.
        "position_ids": (3 * frame).repeat(len(num_frames), 1),
        "attention_mask": (frame < torch.tensor(num_frames)[:, None]).long(),
    }


def export(model: VTNForVideoClassification, side: int):
    """The model as transformers' `ExportedModel`: calling it runs ONNX Runtime, `save_pretrained` writes it."""
    from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter  # needs the packages

    inputs = make_inputs(model, EXAMPLE, side)
    axes = {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}  # videos and frames
    return OnnxExporter().export(model, inputs, config=OnnxConfig(dynamic_shapes=dict.fromkeys(inputs, axes)))


def compare(model: VTNForVideoClassification, exported, side: int) -> float:
    """The largest difference between a logit of ONNX Runtime and one of torch, per largest logit."""
    largest = 0.0
    for num_frames in COMPARED:
        inputs = make_inputs(model, num_frames, side)
        with torch.no_grad():
            expected = model(**inputs).logits
        difference = (exported(**inputs).logits - expected).abs().max().item()
        size = expected.abs().max().item()
        largest = max(largest, difference / size)
        print(f"videos of {num_frames} frames: logits up to {size:.1e}, largest difference {difference:.1e}")
    return largest


def check_inputs(options: argparse.Namespace):
    """Finds out what can be found out before the work begins."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"The export needs {package}: pip install 'vtn-hf[onnx]'")
    outputs = [options.output_dir / "config.json", options.output_dir]
    check_outputs(outputs, Path(options.model).glob("*"), options.overwrite)


def make_parser() -> CommandParser:
    parser = CommandParser("export", __doc__)
    add_shared(parser, "model", required=True)
    add_shared(parser, "output_dir", required=True)
    add_shared(parser, "overwrite")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest difference of a logit to accept, per largest logit"
    )
    return parser


@command("export")
def main(argv: list[str] | None = None) -> int:
    """Exports, compares and saves; returns the exit status."""
    options = make_parser().parse_args(argv)
    check_inputs(options)
    model = AutoModelForVideoClassification.from_pretrained(options.model, dtype=torch.float32).eval()
    processor = VTNVideoProcessor.from_pretrained(options.model)
    side = processor.crop_size.height
    exported = export(model, side)
    with writing_folder(options.output_dir) as folder:
        exported.save_pretrained(folder)
        processor.save_pretrained(folder)
        largest = compare(model, exported, side)
        if not largest <= options.tolerance:
            raise ValueError(
                f"ONNX Runtime differs from torch by {largest:.1e} of the largest logit, above "
                f"{options.tolerance:.1e}; nothing was written."
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
