"""
Trains an image model, such as one that knows photographs, on single pictures of shapes (`frame_backbone.py`), for
features of `drawn_videos.event_videos`.

    python examples/shape_backbone.py EFFICIENTNET_LITE0 IMAGE_MODEL
    vtn extract --data_dir VIDEOS --backbone_name_or_path IMAGE_MODEL --resize_to 128 128 --crop_size 128 …
"""

import argparse
import json
from pathlib import Path

from ablate import ENCODER
from frame_backbone import train_backbone
from transformers import set_seed

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Train an image model on pictures of shapes.")
    parser.add_argument("backbone_name_or_path", help="image model to begin with")
    parser.add_argument("output_dir", type=Path, help="folder to write")
    parser.add_argument("--size", type=int, default=128, help="pixels of a side of the pictures")
    parser.add_argument("--num_steps", type=int, default=220, help="about one second each on two cores")
    parser.add_argument("--batch_size", type=int, default=48, help="pictures per step")
    options = parser.parse_args(argv)
    set_seed(0)
    model = VTNForVideoClassification.from_backbone_pretrained(options.backbone_name_or_path, **ENCODER)
    side = {"height": options.size, "width": options.size}
    processor = VTNVideoProcessor(size=side, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    quality = train_backbone(model, processor, options.num_steps, options.batch_size, learning_rate=1e-3)
    model.vtn.backbone.save_pretrained(options.output_dir)
    processor.save_pretrained(options.output_dir)
    (options.output_dir / "quality.json").write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
    print(quality)


if __name__ == "__main__":
    main()
