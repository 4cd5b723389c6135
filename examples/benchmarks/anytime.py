"""
As many frames as it takes against all frames, on the same weights: accuracy, frames and seconds per video.

    vtn extract --data_dir VIDEOS --backbone_name_or_path BACKBONE --output_dir FEATURES
    vtn train --features FEATURES --recipe cached_features --clip_num_frames 2 250 --seed 0 --output_dir RUN0
    python examples/benchmarks/anytime.py moment --features FEATURES --models RUN0 RUN1 RUN2

Each fifth of the held-out videos is classified with the temperature, the confidence and the first look that the others
give; `anytime_filmed.py` does the same in folds. The controls have as many frames: spread evenly, the same
number for each video; and in random order, under the same rule. Models that are in the output already are not measured
again. `--num_timed 20` also times so many videos from their files, one after the other, with all frames and with as
many as it takes; `--num_curve_timed 5` so many at each point of the curves. `--figure PICTURE` draws accuracy against
seconds for all collections in the output whose curves are timed.
"""

import argparse
import json
import statistics
import time
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import torch

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.feature_cache import CachedClips
from vtn_hf.frame_sampling_vtn import sample_uniform
from vtn_hf.inference.anytime import classify_looks, plan_looks
from vtn_hf.inference.calibration import (
    Calibration,
    Looks,
    Stops,
    begin_with,
    calibrate,
    plan_all_looks,
)
from vtn_hf.inference.whole_video import classify_video


NUM_FOLDS = 5  # of the held-out videos
CONFIDENCES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
FRAME_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128)
CURVES = ("anytime", "spread evenly", "random order")

Example = dict[str, torch.Tensor]  # of a video, `inputs_embeds` (frames, features) and `position_ids` (frames,)


@torch.no_grad()
def classify(model: VTNForVideoClassification, example: Example, places: np.ndarray) -> torch.Tensor:
    """Logits of some frames of a video."""
    features, position_ids = (example[name][None, places] for name in ("inputs_embeds", "position_ids"))
    return model(inputs_embeds=features, position_ids=position_ids).logits[0]


def look_at_all(model: VTNForVideoClassification, examples: list[Example]) -> list[Looks]:
    """All looks that a calibration may begin with."""
    return [
        classify_looks(model, each["inputs_embeds"], each["position_ids"], plan_all_looks(len(each["position_ids"])))
        for each in examples
    ]


def look_at_random(
    model: VTNForVideoClassification, example: Example, min_frames: int, generator: np.random.Generator
) -> Looks:
    """As [`classify_looks`], but in random order."""
    num_frames = len(example["position_ids"])
    order = generator.permutation(num_frames)
    return [(count, classify(model, example, np.sort(order[:count]))) for count in plan_looks(num_frames, min_frames)]


class Part:
    """
    Some videos, classified by the calibration of others.

    Args:
        model (`VTNForVideoClassification`): Trained on other videos.
        examples (`list`): The videos.
        looks (`list`): What [`look_at_all`] gives of them.
        labels (`torch.Tensor` of shape `(videos,)`): Their classes.
        calibration (`Calibration`): Of other videos.

    Attributes:
        hits, counts (`dict[str, np.ndarray]`): For all frames and each of `CURVES`, which videos are right and how
            many frames were looked at, `(videos,)`.
        curves (`dict[str, np.ndarray]`): For each of `CURVES`, hits and counts at each confidence or number of
            frames, `(2, points, videos)`.
    """

    def __init__(
        self,
        model: VTNForVideoClassification,
        examples: list[Example],
        looks: list[Looks],
        labels: torch.Tensor,
        calibration: Calibration,
    ):
        self._model, self._examples, self._labels, self.calibration = model, examples, labels.numpy(), calibration
        generator, min_frames = np.random.default_rng(0), calibration.min_frames
        looks = begin_with(looks, min_frames)
        random = [look_at_random(model, each, min_frames, generator) for each in examples]
        found = {
            "all frames": self._stop(looks, 1.0),
            "anytime": self._stop(looks, calibration.confidence),
            "random order": self._stop(random, calibration.confidence),
        }
        found["spread evenly"] = self._spread(max(1, round(found["anytime"][1].mean())))
        self.hits, self.counts = ({name: pair[place] for name, pair in found.items()} for place in (0, 1))
        self.curves = {
            "anytime": np.stack([self._stop(looks, each) for each in CONFIDENCES], axis=1),
            "spread evenly": np.stack([self._spread(each) for each in FRAME_COUNTS], axis=1),
            "random order": np.stack([self._stop(random, each) for each in CONFIDENCES], axis=1),
        }

    def _stop(self, looks: list[Looks], confidence: float) -> tuple[np.ndarray, np.ndarray]:
        """Hits and frames of each video."""
        stops = [Stops(video, self.calibration.temperature) for video in looks]
        ends = [each.find_end(confidence) for each in stops]
        answers, counts = (
            np.array([getattr(each, name)[end] for each, end in zip(stops, ends, strict=True)])
            for name in ("answers", "counts")
        )
        return answers == self._labels, counts

    def _spread(self, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
        """The same of so many frames spread evenly."""
        places = [sample_uniform(len(each["position_ids"]), num_frames) for each in self._examples]
        answers = [
            int(classify(self._model, each, chosen).argmax())
            for each, chosen in zip(self._examples, places, strict=True)
        ]
        return np.array(answers) == self._labels, np.array([len(chosen) for chosen in places])


def summarize(parts: list[Part]) -> dict:
    """All that is said of a model, or of those of several folds, over all videos."""
    hits, counts = (
        {name: np.concatenate([getattr(part, which)[name] for part in parts]) for name in parts[0].hits}
        for which in ("hits", "counts")
    )
    rows = {f"{name}, top-1": float(each.mean()) for name, each in hits.items()}
    rows |= {f"{name}, mean of frames": float(each.mean()) for name, each in counts.items()}
    rows["anytime, p95 of frames"] = float(np.percentile(counts["anytime"], 95))
    rows["anytime, mean share of frames"] = float((counts["anytime"] / counts["all frames"]).mean())
    for name in ("temperature", "confidence", "min_frames"):
        rows[name] = statistics.mean(getattr(part.calibration, name) for part in parts)
    curves = {name: np.concatenate([part.curves[name] for part in parts], axis=2).mean(axis=2) for name in CURVES}
    return rows | {"curves": {name: each[::-1].T.tolist() for name, each in curves.items()}}


def measure(model: VTNForVideoClassification, clips: CachedClips) -> tuple[dict, Calibration]:
    """All that is measured without decoding, and the calibration by all videos."""
    examples, labels = [clips[index] for index in range(len(clips))], clips.labels
    looks = look_at_all(model, examples)
    parts, order = [], np.random.default_rng(0).permutation(len(clips))
    for tested in np.array_split(order, min(NUM_FOLDS, len(order))):
        others = np.setdiff1d(order, tested)
        calibration = calibrate([looks[place] for place in others], labels[others])
        selected = ([each[place] for place in tested] for each in (examples, looks))
        parts.append(Part(model, *selected, labels[tested], calibration))
    return summarize(parts), calibrate(looks, labels)


def time_videos(
    model: VTNForVideoClassification, processor: VTNVideoProcessor, sources: list, calibration: Calibration
) -> dict[str, float]:
    """Seconds per video from its file, all frames and as many as it takes in turns."""
    settings = {
        "all frames": {},
        "anytime": {"confidence": calibration.confidence, "min_frames": calibration.min_frames},
    }
    _, seconds = run_all(model, processor, sources, calibration, settings)
    rows = {f"{name}, mean of seconds": float(each.mean()) for name, each in seconds.items()}
    return rows | {f"{name}, p95 of seconds": float(np.percentile(each, 95)) for name, each in seconds.items()}


def time_curves(
    model: VTNForVideoClassification, processor: VTNVideoProcessor, sources: list, calibration: Calibration
) -> dict[str, list[list[float]]]:
    """Means of frames and of seconds per video, of as many as it takes and of frames spread evenly."""
    min_frames = calibration.min_frames
    points = {("anytime", each): {"confidence": each, "min_frames": min_frames} for each in CONFIDENCES}
    points |= {("spread evenly", each): {"num_frames": each} for each in FRAME_COUNTS}
    counts, seconds = run_all(model, processor, sources, calibration, points)
    curves = {name: [] for name, _ in points}
    for name, point in points:
        curves[name].append([float(each[name, point].mean()) for each in (counts, seconds)])
    return {name: sorted(each) for name, each in curves.items()}


def run_all(
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    sources: list,
    calibration: Calibration,
    settings: dict[Hashable, dict],
) -> tuple[dict[Hashable, np.ndarray], dict[Hashable, np.ndarray]]:
    """Frames seen and seconds of each video, `(videos,)`, by each of some settings in turns."""
    model.config.calibration_temperature = calibration.temperature
    classify_video(model, processor, sources[0], num_frames=processor.num_frames)  # to warm up
    found = {name: [] for name in settings}
    for source in sources:
        for name, others in settings.items():
            start = time.perf_counter()
            result = classify_video(model, processor, source, **{"num_frames": processor.num_frames} | others)
            found[name].append((len(result.video.frame_numbers), time.perf_counter() - start))
    counts, seconds = ({name: np.array(pairs).T[place] for name, pairs in found.items()} for place in (0, 1))
    return counts, seconds


def time_all(
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    sources: list,
    calibration: Calibration,
    options: argparse.Namespace,
) -> dict:
    """What the options ask to be timed, of random videos."""
    rows, places = {}, np.random.default_rng(0).permutation(len(sources))
    random = [sources[place] for place in places]
    if options.num_timed:
        rows |= time_videos(model, processor, random[: options.num_timed], calibration)
    if options.num_curve_timed:
        rows["times"] = time_curves(model, processor, random[: options.num_curve_timed], calibration)
    return rows


def print_table(name: str, results: dict[str, dict]):
    """Mean and standard deviation over the models, in markdown."""
    print(f"| {name} | mean | standard deviation over {len(results)} models |\n| --- | --- | --- |")
    for row in dict.fromkeys(key for each in results.values() for key in each if key not in ("curves", "times")):
        values = [each[row] for each in results.values() if row in each]
        print(f"| {row} | {statistics.mean(values):.4g} | {statistics.stdev(values) if len(values) > 1 else 0:.2g} |")


def plot(record: dict[str, dict], path: Path):
    """
    Top-1 against seconds per video, means over the models of each collection. Seconds are those that so many frames
    take; of random order, which takes at least as long, those of our order.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    record = {name: results for name, results in record.items() if any("times" in each for each in results.values())}
    num_columns = min(3, len(record))
    num_rows = -(-len(record) // num_columns)
    size = (4 * num_columns, 3.2 * num_rows)
    figure, panels = plt.subplots(num_rows, num_columns, figsize=size, squeeze=False, layout="constrained")
    for axes, (name, results) in zip(panels.flat, record.items(), strict=False):
        times = next(each["times"] for each in results.values() if "times" in each)
        for curve in CURVES:
            frames, top1 = np.mean([each["curves"][curve] for each in results.values()], axis=0).T
            seconds = np.interp(frames, *np.transpose(times.get(curve, times["anytime"])))
            axes.plot(seconds, top1, marker="o", markersize=3, label=curve)
        axes.set(title=name, xscale="log", xlabel="mean of seconds per video")
        axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter="{x:g}", minor_formatter="")
        axes.grid(alpha=0.3)
    for axes in panels.flat[len(record) :]:
        axes.set_axis_off()
    panels[0, 0].set_ylabel("top-1")
    panels[0, 0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


class Record:
    """
    The results in a file, of each collection by model.

    Args:
        path (`Path`): The file, which may be there.
        name (`str`): Of the collection.
    """

    def __init__(self, path: Path, name: str):
        self._path, self._name = path, name
        self.all = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        self.results = self.all.setdefault(name, {})

    def add(self, model: str, rows: dict):
        """Keeps what was measured of a model."""
        self.results[model] = self.results.get(model, {}) | rows
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self.all, indent=2) + "\n", encoding="utf-8")

    def report(self, figure: Path | None):
        """Prints the table of this collection, and draws all of them."""
        print_table(self._name, self.results)
        if figure is not None:
            plot(self.all, figure)


def add_arguments(parser: argparse.ArgumentParser):
    """Those of what comes out."""
    parser.add_argument("--num_timed", type=int, default=0, help="videos to time from their files")
    parser.add_argument("--num_curve_timed", type=int, default=0, help="the same, at each point of the curves")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results/anytime.json")
    parser.add_argument("--figure", type=Path, help="plot to write")


def main():
    parser = argparse.ArgumentParser(description="As many frames as it takes against all frames.")
    parser.add_argument("name", help="of the collection, in the output")
    parser.add_argument("--features", type=Path, required=True, help="what vtn extract made of it")
    parser.add_argument("--models", nargs="+", required=True, help="trained on its train split, one per seed")
    parser.add_argument("--split", default="val", help="videos that the models were not trained on")
    parser.add_argument("--timed_videos", type=Path, help="folder of files to time, if the features are of none")
    add_arguments(parser)
    options = parser.parse_args()
    record, clips = Record(options.output, options.name), CachedClips(options.features, options.split)
    sources = clips.sources if options.timed_videos is None else sorted(options.timed_videos.rglob("*.mp4"))
    num_frames = max(len(clips[index]["position_ids"]) for index in range(len(clips)))
    for path in options.models:
        if path in record.results:
            continue
        model = VTNForVideoClassification.from_pretrained(path)
        rows, calibration = measure(model, clips)
        processor = VTNVideoProcessor.from_pretrained(path)
        processor.num_frames = num_frames
        rows |= time_all(model, processor, sources, calibration, options)
        record.add(path, rows)
    record.report(options.figure)


if __name__ == "__main__":
    main()
