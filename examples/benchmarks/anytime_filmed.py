"""
As many frames as it takes against all frames, on filmed collections (`filmed_videos.py`), as `anytime.py` does it.

    export PYTHONPATH=examples:examples/benchmarks
    python examples/benchmarks/anytime_filmed.py fights ROOT --backbone_name_or_path BACKBONE --output_dir RUN
    python examples/benchmarks/anytime_filmed.py lips ROOT --output_dir RUN --variant "VTN end to end"

Of five folds each is tested once, by a model that is trained on three others, with the temperature, the confidence and
the first look that the fifth gives. Training sees a random number of a video's frames (`--min_train_frames`); with 0,
all of them; mirror images of what is cached are left out. Seeds that are in the output already are not measured again.
`--num_timed 20` also times so many videos of the last fold from their files, `--num_curve_timed 5` so many at each
point of the curves.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from anytime import Example, Part, Record, add_arguments, calibrate, look_at_all, summarize, time_all
from filmed_videos import NUM_FOLDS, VARIANTS, Cell, Variant, Videos, extract_features, read_videos
from torch.utils.data import Dataset

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.clip_lengths import draw_length
from vtn_hf.data.clip_sampling import sample_clip
from vtn_hf.pretrained_backbone import load_backbone


@dataclass(frozen=True)
class FewerFrames:
    """
    In the place of `TimeAugmentation`: a random number of frames, one from each of as many parts of the video.

    Args:
        least (`int`): Fewest frames.
    """

    least: int

    def __call__(self, position_ids: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        num_frames = len(position_ids)
        length = draw_length((min(self.least, num_frames), num_frames), generator)
        chosen = sample_clip(num_frames, length, generator=generator)
        return chosen, position_ids[chosen]


def make_examples(
    model: VTNForVideoClassification, processor: VTNVideoProcessor, videos: Dataset
) -> tuple[list[Example], torch.Tensor]:
    """Features of the videos, and their classes."""
    examples = videos.__getitems__(list(range(len(videos))))
    for example in examples:
        if "pixel_values" in example:
            pixels = processor.normalize_uint8(example["pixel_values"][None])
            with torch.no_grad():
                example["inputs_embeds"] = model.vtn.get_frame_features(pixels)[0]
    return examples, torch.stack([example["labels"] for example in examples])


def measure(variant: Variant, videos: Videos, seed: int, options: argparse.Namespace) -> dict:
    """All folds of a seed."""
    parts = []
    for fold in range(NUM_FOLDS):
        cell = Cell(variant, videos, seed, fold, protocol="val")
        trainer, _ = cell.train_model()
        model, processor = trainer.model.eval(), cell.make_processor()
        examples, labels = make_examples(model, processor, cell.make_test_videos())
        calibration = calibrate(look_at_all(model, examples), labels)
        tested = Cell(variant, videos, seed, fold, protocol="test")
        examples, labels = make_examples(model, processor, tested.make_test_videos())
        parts.append(Part(model, examples, look_at_all(model, examples), labels, calibration))
    if not variant.is_end_to_end:
        model.vtn.backbone = load_backbone(videos.backbone_name_or_path).eval()
    sources = [videos.paths[index] for index in tested.test]
    return summarize(parts) | time_all(model, processor, sources, calibration, options)


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description="As many frames as it takes, on filmed videos.")
    parser.add_argument("name", help="of the collection, in the output")
    parser.add_argument("data_dir", help="ROOT/CLASS/VIDEO")
    parser.add_argument("--backbone_name_or_path", help="image model; what is trained end to end needs none")
    parser.add_argument("--output_dir", type=Path, required=True, help="features or pictures")
    parser.add_argument("--variant", choices=[name for name in VARIANTS if VARIANTS[name]], default="VTN")
    parser.add_argument("--min_train_frames", type=int, default=2, help="fewest frames in training; 0: always all")
    parser.add_argument("--frame_size", type=int, default=224, help="pixels of a side, of frames that become features")
    parser.add_argument("--num_frames", type=int, default=32, help="of a video, at most, that become features")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that decode what becomes features")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add_arguments(parser)
    options = parser.parse_args(argv)
    variant = replace(VARIANTS[options.variant], is_mirrored=False)
    if not variant.is_end_to_end and options.backbone_name_or_path is None:
        parser.error(f"--backbone_name_or_path is missing, which {options.variant!r} is not trained without.")
    record, videos = Record(options.output, options.name), read_videos(options)
    if options.min_train_frames:
        variant = replace(variant, time=FewerFrames(options.min_train_frames))
    if not variant.is_end_to_end:
        extract_features(options.data_dir, videos, variant.frame_grid, is_mirrored=False)
    for seed in options.seeds:
        key = f"{options.variant}, from {options.min_train_frames or 'all'} frames, seed {seed}"
        if key not in record.results:
            record.add(key, measure(variant, videos, seed, options))
    record.report(options.figure)


if __name__ == "__main__":
    main()
