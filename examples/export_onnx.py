"""
Exports a Video Transformer Network to ONNX, for any number of videos and frames, and compares ONNX Runtime with torch.

    pip install -e '.[onnx]'
    python examples/export_onnx.py MODEL OUTPUT_DIR

MODEL is a directory or a repository on the Hub. OUTPUT_DIR then holds model.onnx with its weights, the configuration
and the processors, or stays as it was if ONNX Runtime differs. The graph takes `pixel_values`, `position_ids` and
`attention_mask`, as VTNVideoProcessor gives them for videos of unequal length; for one video the mask is all ones.
"""

import argparse
import importlib.util
import sys
from pathlib import Path

import torch
from transformers import AutoModelForVideoClassification
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.outputs import check_outputs, writing_folder


# Batches of videos, by their numbers of frames: the one to export with, of several attention blocks and with padding,
# as a dimension of size 1 would be taken for a constant; and those to compare on.
EXAMPLE = [100, 70]
COMPARED = ([20, 33], [1], [64], [7, 7, 3], [250])


def make_inputs(model: VTNForVideoClassification, num_frames: list[int], side: int) -> dict[str, torch.Tensor]:
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
            raise ValueError(f"The export needs {package}: pip install -e '.[onnx]'")
    outputs = [options.output_dir / "config.json", options.output_dir]
    check_outputs(outputs, Path(options.model).glob("*"), options.overwrite)


def main(argv: list[str] | None = None) -> int:
    """Exports, compares and saves; returns the exit status."""
    parser = argparse.ArgumentParser("export_onnx.py", description="Exports a VTN to ONNX.")
    parser.add_argument("model", help="directory or repository on the Hub")
    parser.add_argument("output_dir", type=Path, help="a new folder")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest difference of a logit to accept, per largest logit"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same names in the folder")
    options = parser.parse_args(argv)
    try:
        check_inputs(options)
        model = AutoModelForVideoClassification.from_pretrained(options.model, dtype=torch.float32).eval()
        processor = VTNVideoProcessor.from_pretrained(options.model)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    side = processor.crop_size.height
    exported = export(model, side)
    with writing_folder(options.output_dir) as folder:
        exported.save_pretrained(folder)
        processor.save_pretrained(folder)
        largest = compare(model, exported, side)
        if not largest <= options.tolerance:
            parser.exit(
                1,
                f"ONNX Runtime differs from torch by {largest:.1e} of the largest logit, above "
                f"{options.tolerance:.1e}; nothing was written.\n",
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
