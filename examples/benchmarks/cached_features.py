"""
Measures what cached features save, with ViT-B: an epoch end to end and one on the cached features of the same clips
(`epoch`), and a whole fine-tuning on 1,000 cached videos of 250 frames (`fine_tuning`). And how far the exported model
is from what was trained (`export`): its scores of videos against its scores of their cached features.

    for part in epoch fine_tuning export; do
        python examples/benchmarks/cached_features.py $part --output examples/benchmarks/results/cached_features.json
    done

The weights are random, which changes no time. `fine_tuning` works on generated features, as ViT-B would take hours for
250,000 frames on a CPU: its accuracy says that the training works, nothing about videos. Chance is 0.1 for it, and 0.5
for whoever cannot tell the order of frames.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoModel, ViTImageProcessor

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.feature_cache import CachedClips, CacheIndex, FeatureCacheInfo, hash_weights, read_shard, write_shard


sys.path.append(str(Path(__file__).parent.parent))

from drawn_videos.motion_clips import write_motion_clips  # noqa: E402 - lies in the folder above


WORK = Path("runs/cached_features_benchmark")
NUM_CLIPS, CLIP_FRAMES, NUM_CACHED_EPOCHS = 8, 16, 20
NUM_VIDEOS, NUM_HELD_OUT, NUM_FRAMES, NUM_CLASSES = 1000, 100, 250, 10


def launch(name: str, *arguments: object) -> float:
    """Runs a command as a user does; returns the seconds it took."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    start = time.perf_counter()
    subprocess.run([*command, "-m", f"vtn_hf.commands.{name}", *map(str, arguments)], check=True)
    return time.perf_counter() - start


def make_backbone() -> Path:
    """ViT-B/16 as on the Hub, with random weights."""
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model("vit")).save_pretrained(WORK / "vit_b")
    ViTImageProcessor().save_pretrained(WORK / "vit_b")
    return WORK / "vit_b"


def time_epoch(name: str, num_epochs: int, *arguments: object) -> float:
    """Seconds per epoch of `vtn train`, from the first batch to the end of the last step."""
    launch(
        "train",
        *("--output_dir", WORK / name, "--num_train_epochs", num_epochs, "--save_strategy", "no", *arguments),
    )
    metrics = json.loads((WORK / name / "train_results.json").read_text(encoding="utf-8"))
    return metrics["train_runtime"] / num_epochs


def extract(backbone: Path) -> float:
    """Writes clips and their features; returns the seconds that the features took."""
    write_motion_clips(WORK / "clips", num_train=NUM_CLIPS, num_val=0)
    flags = ("--data_dir", WORK / "clips", "--backbone_name_or_path", backbone, "--output_dir", WORK / "features")
    return launch("extract", *flags, "--num_frames", CLIP_FRAMES)


def measure_epoch(backbone: Path) -> dict:
    """End to end, also with a frozen backbone, and on cached features: the same clips in the same batches."""
    extraction = extract(backbone)
    batches = ("--clip_num_frames", CLIP_FRAMES, "--per_device_train_batch_size", 2)
    videos = ("--data_dir", WORK / "clips", "--dataloader_num_workers", 1)
    sources = {
        "end_to_end": (1, *videos),
        "frozen": (1, *videos, "--freeze_backbone", "true"),
        "cached": (NUM_CACHED_EPOCHS, "--features", WORK / "features"),
    }
    seconds = {
        name: time_epoch(name, num_epochs, "--backbone_name_or_path", backbone, *batches, *arguments)
        for name, (num_epochs, *arguments) in sources.items()
    }
    return {
        "videos": NUM_CLIPS,
        "frames_per_clip": CLIP_FRAMES,
        "extraction_sec": extraction,
        "sec_per_epoch": seconds,
        "ratio_end_to_end": seconds["end_to_end"] / seconds["cached"],
        "ratio_frozen": seconds["frozen"] / seconds["cached"],
    }


@torch.no_grad()
def measure_export(backbone: Path) -> dict:
    """The model that a training on features leaves, on the videos and on their features."""
    extract(backbone)
    launch("train", "--features", WORK / "features", "--output_dir", WORK / "model", "--num_train_epochs", 10)
    model = VTNForVideoClassification.from_pretrained(WORK / "model")
    processor = VTNVideoProcessor.from_pretrained(WORK / "model")
    cached = CachedClips(WORK / "features", "train")
    logits = {"videos": [], "features": []}
    for path, example in zip(cached.paths, cached, strict=True):
        inputs = {name: example[name][None] for name in ("inputs_embeds", "position_ids")}
        logits["features"].append(model(**inputs).logits[0])
        logits["videos"].append(model(**processor(path, return_tensors="pt")).logits[0])
    videos, features = (torch.stack(each) for each in logits.values())
    return {
        "videos": len(cached),
        "same_class": (videos.argmax(1) == features.argmax(1)).sum().item(),
        "max_logit_difference": (videos - features).abs().max().item(),
        "std_of_logits": videos.std().item(),
        "features": "float16",
    }


def write_generated_features(root: Path, backbone: Path):
    """Noise around one vector and then around another; a class differs from its partner in which comes first."""
    info = FeatureCacheInfo(
        backbone_name_or_path=str(backbone),
        backbone_sha256=hash_weights(AutoModel.from_pretrained(backbone, add_pooling_layer=False)),
        processor=json.loads(VTNVideoProcessor.from_backbone_pretrained(backbone).to_json_string()),
    )
    info.save(root)
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(NUM_CLASSES // 2, 2, 768, generator=generator) / 2
    splits = {"train": [], "val": []}
    for split, num_videos in (("train", NUM_VIDEOS), ("val", NUM_HELD_OUT)):
        for first in range(0, num_videos, 50):
            videos = []
            for index in range(first, min(first + 50, num_videos)):
                label = index % NUM_CLASSES
                order = centres[label // 2] if label % 2 else centres[label // 2].flip(0)
                features = torch.randn(NUM_FRAMES, 768, generator=generator)
                features += order.repeat_interleave(NUM_FRAMES // 2, dim=0)
                clips = [(features, torch.arange(NUM_FRAMES))]
                videos.append({"path": f"{split}/{index}", "label": label, "fps": 25.0, "clips": clips})
            path = root / split / f"shard-{first // 50:05d}.safetensors"
            write_shard(path, videos)
            splits[split] += read_shard(path)
    CacheIndex([f"class {number}" for number in range(NUM_CLASSES)], splits).save(root)


def measure_fine_tuning(backbone: Path) -> dict:
    """The recipe `cached_features` from start to end: import, training, evaluations, checkpoints."""
    write_generated_features(WORK / "generated", backbone)
    shutil.rmtree(WORK / "fine_tuning", ignore_errors=True)
    seconds = launch(
        "train", "--recipe", "cached_features", "--features", WORK / "generated", "--output_dir", WORK / "fine_tuning"
    )
    results = json.loads((WORK / "fine_tuning/all_results.json").read_text(encoding="utf-8"))
    logs = json.loads((WORK / "fine_tuning/trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {
        "videos": NUM_VIDEOS,
        "frames_per_video": NUM_FRAMES,
        "epochs": results["epoch"],
        "minutes": seconds / 60,
        "videos_per_sec": statistics.median(log["videos_per_sec"] for log in logs if "videos_per_sec" in log),
        "top1_on_generated_features": results["eval_top1"],
        "top1_by_chance": 1 / NUM_CLASSES,
    }


def main():
    """Measures one part and adds it to the file."""
    parser = argparse.ArgumentParser(description="What cached features save.")
    parser.add_argument("part", choices=["epoch", "fine_tuning", "export"])
    parser.add_argument("--output", type=Path, help="JSON file to write, or to add to")
    options = parser.parse_args()
    shutil.rmtree(WORK, ignore_errors=True)
    parts = {"epoch": measure_epoch, "fine_tuning": measure_fine_tuning, "export": measure_export}
    measure = parts[options.part]
    result = measure(make_backbone()) | {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    shutil.rmtree(WORK)
    print(json.dumps(result, indent=2))
    if options.output is not None:
        results = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results | {options.part: result}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
