"""
As many frames as it takes against all frames, on the same weights: accuracy, frames and seconds per video.

    vtn extract --data_dir VIDEOS --backbone_name_or_path BACKBONE --output_dir FEATURES
    vtn train --features FEATURES --recipe cached_features --clip_num_frames 8 250 --seed 0 --output_dir RUN0
    python examples/benchmarks/anytime.py moment --features FEATURES --models RUN0 RUN1 RUN2

Each half of the held-out videos is classified with the temperature and the confidence that the other half gives. The
controls have as many frames: spread evenly, the same number for each video; and in random order, under the same rule.
Models that are in the output already are not measured again. `--num_timed 20` also times so many videos from their
files, one after the other, with all frames and with as many as it takes.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.feature_cache import CachedClips
from vtn_hf.frame_sampling_vtn import sample_uniform
from vtn_hf.inference.anytime import classify_looks, plan_looks
from vtn_hf.inference.calibration import Calibration, Looks, Stops, calibrate
from vtn_hf.inference.whole_video import classify_video


CONFIDENCES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
FRAME_COUNTS = (8, 16, 32, 64, 128)


@torch.no_grad()
def classify(model: VTNForVideoClassification, example: dict[str, torch.Tensor], places: np.ndarray) -> torch.Tensor:
    """Logits of some frames of a video."""
    features, position_ids = (example[name][None, places] for name in ("inputs_embeds", "position_ids"))
    return model(inputs_embeds=features, position_ids=position_ids).logits[0]


def look_at_random(model: VTNForVideoClassification, example: dict, generator: np.random.Generator) -> Looks:
    """As [`classify_looks`], but in random order."""
    num_frames = len(example["position_ids"])
    order = generator.permutation(num_frames)
    return [(count, classify(model, example, np.sort(order[:count]))) for count in plan_looks(num_frames, 8)]


def stop(looks: list[Looks], temperature: float, confidence: float) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Answer, frames and share of frames of each video."""
    stops = [Stops(video, temperature) for video in looks]
    ends = [each.find_end(confidence) for each in stops]
    counts = np.array([each.counts[end] for each, end in zip(stops, ends, strict=True)])
    totals = np.array([each.counts[-1] for each in stops])
    return [each.answers[end] for each, end in zip(stops, ends, strict=True)], counts, counts / totals


def calibrate_halves(looks: list[Looks], labels: torch.Tensor) -> list[Calibration]:
    """For each half of the videos, what the other one gives."""
    return [calibrate(looks[1 - half :: 2], labels[1 - half :: 2]) for half in (0, 1)]


def stop_halves(looks: list[Looks], found: list[Calibration], confidence: float | None = None) -> tuple:
    """As [`stop`], each half by the calibration of the other, or by a given confidence."""
    answers, counts, shares = [np.zeros(len(looks)) for _ in range(3)]
    for half, each in enumerate(found):
        parts = stop(looks[half::2], each.temperature, confidence or each.confidence)
        answers[half::2], counts[half::2], shares[half::2] = parts
    return answers, counts, shares


def score(answers, labels: torch.Tensor) -> float:
    """Top-1."""
    return float((torch.as_tensor(np.array(answers)) == labels).double().mean())


def score_spread(
    model: VTNForVideoClassification, examples: list[dict], labels: torch.Tensor, num_frames: int
) -> float:
    """Top-1 of so many frames spread evenly."""
    places = [sample_uniform(len(each["position_ids"]), num_frames) for each in examples]
    logits = [classify(model, each, chosen) for each, chosen in zip(examples, places, strict=True)]
    return score([int(each.argmax()) for each in logits], labels)


def trace(looks: list[Looks], found: list[Calibration], labels: torch.Tensor) -> list[tuple[float, float]]:
    """Mean of frames and top-1 for each confidence."""
    stopped = [stop_halves(looks, found, confidence) for confidence in CONFIDENCES]
    return [(float(counts.mean()), score(answers, labels)) for answers, counts, _ in stopped]


def measure(model: VTNForVideoClassification, clips: CachedClips) -> dict:
    """All that is measured without decoding."""
    examples, generator = [clips[index] for index in range(len(clips))], np.random.default_rng(0)
    labels = clips.labels
    looks = [classify_looks(model, each["inputs_embeds"], each["position_ids"]) for each in examples]
    random = [look_at_random(model, each, generator) for each in examples]
    found = calibrate_halves(looks, labels)
    answers, counts, shares = stop_halves(looks, found)
    random_answers, random_counts, _ = stop_halves(random, found)
    return {
        "all frames, top-1": score([int(video[-1][1].argmax()) for video in looks], labels),
        "anytime, top-1": score(answers, labels),
        "spread evenly, top-1": score_spread(model, examples, labels, round(counts.mean())),
        "random order, top-1": score(random_answers, labels),
        "all frames, mean": statistics.mean(video[-1][0] for video in looks),
        "anytime, mean of frames": float(counts.mean()),
        "anytime, p95 of frames": float(np.percentile(counts, 95)),
        "anytime, mean share of frames": float(shares.mean()),
        "random order, mean of frames": float(random_counts.mean()),
        "confidence": statistics.mean(each.confidence for each in found),
        "temperature": statistics.mean(each.temperature for each in found),
        "curves": {
            "anytime": trace(looks, found, labels),
            "random order": trace(random, found, labels),
            "spread evenly": [(count, score_spread(model, examples, labels, count)) for count in FRAME_COUNTS],
        },
    }


def time_videos(model: VTNForVideoClassification, processor: VTNVideoProcessor, sources: list, found: dict) -> dict:
    """Seconds per video from its file, all frames and as many as it takes in turns."""
    model.config.calibration_temperature = found["temperature"]
    seconds = {"all frames": [], "anytime": []}
    for source in sources:
        for name, confidence in (("all frames", None), ("anytime", found["confidence"])):
            start = time.perf_counter()
            classify_video(model, processor, source, confidence=confidence, num_frames=processor.num_frames)
            seconds[name].append(time.perf_counter() - start)
    rows = {f"{name}, mean of seconds": statistics.mean(each) for name, each in seconds.items()}
    return rows | {f"{name}, p95 of seconds": float(np.percentile(each, 95)) for name, each in seconds.items()}


def print_table(name: str, results: dict[str, dict]):
    """Mean and standard deviation over the models, in markdown."""
    print(f"| {name} | mean | standard deviation over {len(results)} models |\n| --- | --- | --- |")
    for row in next(iter(results.values())):
        if row != "curves":
            values = [each[row] for each in results.values() if row in each]
            print(f"| {row} | {statistics.mean(values):.4g} | {np.std(values):.2g} |")


def main():
    parser = argparse.ArgumentParser(description="As many frames as it takes against all frames.")
    parser.add_argument("name", help="of the collection, in the output")
    parser.add_argument("--features", type=Path, required=True, help="what vtn extract made of it")
    parser.add_argument("--models", nargs="+", required=True, help="trained on its train split, one per seed")
    parser.add_argument("--split", default="val", help="videos that the models were not trained on")
    parser.add_argument("--num_timed", type=int, default=0, help="videos to time from their files")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/anytime.json")
    options = parser.parse_args()
    record = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    results = record.setdefault(options.name, {})
    clips = CachedClips(options.features, options.split)
    for path in options.models:
        if path in results:
            continue
        model = VTNForVideoClassification.from_pretrained(path)
        results[path] = measure(model, clips)
        if options.num_timed:
            processor = VTNVideoProcessor.from_pretrained(path)
            results[path] |= time_videos(model, processor, clips.sources[: options.num_timed], results[path])
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print_table(options.name, results)


if __name__ == "__main__":
    main()
