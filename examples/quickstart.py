"""
Makes videos, trains a Video Transformer Network on them from scratch and classifies videos with it: `make quickstart`.

The ten classes of the videos come in pairs that are each other played backwards (`drawn_videos.motion_clips`), so the
run also says what is left without time: the same model on shuffled frames, and the same backbone trained with the mean
over frames instead of the temporal encoder. Leaves runs/quickstart/summary.json, and the model in
runs/quickstart/model, with curves, confusion matrix and videos in report/index.html.

    python examples/quickstart.py
"""

import json
import os
import shlex
import sys
import time
from pathlib import Path


# Torch's threads would spin while they wait for each other, on the cores that decode videos: 1.4 times as slow.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch  # noqa: E402 - the environment comes first
from baselines import FrameAverageClassifier  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from tqdm import tqdm  # noqa: E402
from transformers import pipeline  # noqa: E402

import vtn_cli  # noqa: E402
from drawn_videos.motion_clips import write_small_motion_clips  # noqa: E402
from vtn_hf import VTNForVideoClassification, VTNVideoProcessor  # noqa: E402
from vtn_hf.commands.train import make_model, parse_arguments, train  # noqa: E402
from vtn_hf.data.clips import ClipTransform, collate_videos  # noqa: E402
from vtn_hf.data.collection import read_collection  # noqa: E402


ROOT = Path("runs/quickstart")
RECIPE = Path(__file__).parent / "configs/quickstart.yaml"
NUM_TRAIN, NUM_VAL = 7200, 600


def announce(step: int, what: str):
    """Says what comes next."""
    print(f"\n[{step}/5] {what}", flush=True)


@torch.no_grad()
def evaluate(model: VTNForVideoClassification, root: Path) -> dict[str, float]:
    """Top-1 accuracy on whole held-out videos, with their frames in order and in random order."""
    model.eval()
    processor = VTNVideoProcessor.from_pretrained(ROOT / "model")
    videos = read_collection(root).videos["val"].with_transform(ClipTransform(processor))
    generator = torch.Generator().manual_seed(0)
    hits = {"ordered": 0, "shuffled": 0}
    for batch in tqdm(DataLoader(videos, batch_size=1, num_workers=2, collate_fn=collate_videos)):
        # The backbone sees one frame at a time: shuffling its features is shuffling the pictures.
        features = model.vtn.get_frame_features(batch["pixel_values"])
        order = torch.randperm(features.shape[1], generator=generator)
        for name, embeds in (("ordered", features), ("shuffled", features[:, order])):
            logits = model(inputs_embeds=embeds, position_ids=batch["position_ids"]).logits
            hits[name] += (logits.argmax() == batch["labels"]).item()
    return {name: count / len(videos) for name, count in hits.items()}


def train_vtn(arguments: list[str]):
    """Trains as a user does, by the command."""
    print(f"    vtn train {shlex.join(arguments)}", flush=True)
    if status := vtn_cli.main(["train", *arguments]):
        sys.exit(status)


def train_frame_average(arguments: list[str]) -> float:
    """Trains the frame average; returns its top-1 accuracy on the held-out videos."""
    model_args, data_args, training_args = parse_arguments(arguments)
    training_args.output_dir = str(ROOT / "frame_average")
    train(
        model_args,
        data_args,
        training_args,
        make_model=lambda *args: FrameAverageClassifier(make_model(*args).config),
    )
    results = json.loads((ROOT / "frame_average" / "eval_results.json").read_text(encoding="utf-8"))
    return results["eval_top1"]


def classify_one():
    """Prints the best five classes of a held-out video."""
    video = sorted((ROOT / "clips" / "val").glob("*/*.mp4"))[0]
    print(f"{video}:")
    for prediction in pipeline("video-classification", model=str(ROOT / "model"))(str(video), top_k=5):
        print(f"  {prediction['score']:.3f}  {prediction['label']}")


def main():
    """Runs the five steps."""
    start = time.monotonic()
    ROOT.mkdir(parents=True, exist_ok=True)
    arguments = ["--recipe", str(RECIPE), "--data_dir", str(ROOT / "clips"), "--output_dir", str(ROOT / "model")]

    announce(1, "Writing videos whose classes differ only in the direction of time")
    write_small_motion_clips(ROOT / "clips", NUM_TRAIN, NUM_VAL)

    announce(2, "Training a VTN from scratch")
    train_vtn(arguments)

    announce(3, "Training the frame average: same backbone, same budget, no time")
    frame_average = train_frame_average(arguments)

    announce(4, "Evaluating on whole held-out videos, in order and shuffled")
    model = VTNForVideoClassification.from_pretrained(ROOT / "model")
    accuracy = evaluate(model, ROOT / "clips")

    announce(5, "Classifying one held-out video with pipeline('video-classification')")
    classify_one()

    summary = {
        "top1": accuracy["ordered"],
        "top1_shuffled": accuracy["shuffled"],
        "top1_frame_average": frame_average,
        "num_classes": model.config.num_labels,
        "seconds": round(time.monotonic() - start, 1),
    }
    (ROOT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    print(
        f"\nTop-1 on held-out videos: VTN {summary['top1']:.3f}; the same VTN on shuffled frames "
        f"{summary['top1_shuffled']:.3f}; frame average {summary['top1_frame_average']:.3f}.\n"
        f"{summary['seconds']:.0f} s in all; see {ROOT}/summary.json, {ROOT}/model and {ROOT}/model/report."
    )


if __name__ == "__main__":
    main()
