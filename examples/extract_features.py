"""
Computes the frame features of a collection of videos once, so that `vtn train --features` trains on them in minutes.

    python examples/extract_features.py --data_dir VIDEOS --backbone_name_or_path facebook/dinov2-small \
        --output_dir FEATURES
    vtn train --features FEATURES --recipe cached_features --output_dir RUN

To copy and to change. Stopped, the same command goes on; later it computes what is new in VIDEOS. `vtn extract` also
shares the work among processes, survives files that crash FFmpeg, and computes augmented views.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from tqdm import tqdm

from vtn_hf import VideoDecodeError, VTNVideoProcessor
from vtn_hf.backbone_vtn import encode_frames
from vtn_hf.data.collection import read_collection
from vtn_hf.data.extraction_plan import ExtractionPlan
from vtn_hf.data.feature_cache import CachedVideo, FeatureCacheInfo, hash_weights, write_shard
from vtn_hf.data.listing import hash_video
from vtn_hf.optimization import optimize_backbone
from vtn_hf.pretrained_backbone import load_backbone


VIDEOS_PER_SHARD = 32


def encode(video: CachedVideo, backbone: torch.nn.Module, processor: VTNVideoProcessor, device: str) -> dict:
    """What [`write_shard`] takes: the features of all frames, or why there are none."""
    entry = asdict(video)
    try:
        entry["sha256"] = hash_video(video.path)
        inputs = processor(video.source, return_metadata=True, return_tensors="pt")
    except (VideoDecodeError, OSError) as error:
        return entry | {"error": str(error)}
    features = encode_frames(backbone, inputs["pixel_values"][0].to(device), chunk_size="auto")
    clip = (features.cpu(), inputs["position_ids"][0])
    return entry | {"fps": inputs["video_metadata"][0].fps, "clips": [clip]}


@torch.no_grad()
def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Computes the frame features of a collection of videos.")
    parser.add_argument("--data_dir", required=True, help="folder of videos, {train,val}/CLASS/VIDEO")
    parser.add_argument("--backbone_name_or_path", required=True, help="an image model")
    parser.add_argument("--output_dir", type=Path, required=True, help="a new folder, or one to go on with")
    parser.add_argument("--num_frames", type=int, default=250, help="of a video, at most, spread over all of it")
    parser.add_argument("--val_share", type=float, help="share of train to hold out where there is no val")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(argv)

    collection = read_collection(options.data_dir, val_share=options.val_share)
    backbone = load_backbone(options.backbone_name_or_path).float().to(options.device).eval()
    processor = VTNVideoProcessor.from_backbone_pretrained(
        options.backbone_name_or_path, num_frames=options.num_frames
    )
    # Other features in the same folder are refused.
    FeatureCacheInfo(
        backbone_name_or_path=options.backbone_name_or_path,
        backbone_sha256=hash_weights(backbone),
        processor=json.loads(processor.to_json_string()),
    ).save(options.output_dir)
    backbone = optimize_backbone(backbone)
    plan = ExtractionPlan(options.output_dir, collection, num_views=1)
    print("\n".join(plan.notes))
    for split in plan.to_do:
        for path, videos in tqdm(plan.list_shards(split, VIDEOS_PER_SHARD), desc=split, unit="shard"):
            write_shard(path, [encode(each.video, backbone, processor, options.device) for each in videos])
    index = plan.finish()
    for video in (video for videos in index.splits.values() for video in videos if video.error):
        print(f"Skipped: {video.error}")


if __name__ == "__main__":
    main()
