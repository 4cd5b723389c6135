"""
Exports a Video Transformer Network to ONNX, for any number of videos and frames, and compares ONNX Runtime with torch.

    pip install -e '.[onnx]'
    python examples/export_onnx.py MODEL OUTPUT_DIR

MODEL is a directory or a repository on the Hub. OUTPUT_DIR then holds model.onnx with its weights, the configuration
and the processors. The graph takes `pixel_values`, `position_ids` and `attention_mask`, as VTNVideoProcessor gives
them for videos of unequal length; for one video the mask is all ones.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoModelForVideoClassification
from transformers.exporters.exporter_onnx import OnnxConfig, OnnxExporter

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor


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


def main():
    """Exports, saves and compares."""
    parser = argparse.ArgumentParser(description="Exports a VTN to ONNX.")
    parser.add_argument("model", help="directory or repository on the Hub")
    parser.add_argument("output_dir", type=Path)
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest difference of a logit to accept, per largest logit"
    )
    options = parser.parse_args()
    model = AutoModelForVideoClassification.from_pretrained(options.model, dtype=torch.float32).eval()
    processor = VTNVideoProcessor.from_pretrained(options.model)
    side = processor.crop_size.height

    exported = export(model, side)
    exported.save_pretrained(options.output_dir)
    processor.save_pretrained(options.output_dir)
    largest = 0.0
    for num_frames in COMPARED:
        inputs = make_inputs(model, num_frames, side)
        with torch.no_grad():
            expected = model(**inputs).logits
        difference = (exported(**inputs).logits - expected).abs().max().item()
        size = expected.abs().max().item()
        largest = max(largest, difference / size)
        print(f"videos of {num_frames} frames: logits up to {size:.1e}, largest difference {difference:.1e}")
    if not largest <= options.tolerance:
        raise SystemExit(
            f"ONNX Runtime differs from torch by {largest:.1e} of the largest logit, above {options.tolerance:.1e}."
        )


if __name__ == "__main__":
    main()
