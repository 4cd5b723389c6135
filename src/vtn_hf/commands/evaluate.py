"""
Evaluates a Video Transformer Network on a collection of videos, whole or in several views.

    vtn evaluate --model RUN --data_dir VIDEOS --output_dir RESULTS
    vtn evaluate --model RUN --data_dir VIDEOS --output_dir RESULTS_10X3 --num_clips 10 --num_crops 3

The first passes each video as a whole, as its processor samples it; the second averages the class probabilities of
ten clips with three crops each. RESULTS gets results.json (accuracies, calibration, speed, what was not decoded) and
report/index.html (confusion matrix, classes, what was wrong); `--update_card` adds the results to the model card of
RUN. Any number of processes share the videos (`accelerate launch -m vtn_hf.commands.evaluate …`). The probabilities
are kept in RESULTS/scores-*.jsonl, so the same command goes on where a stopped run ended.

With `--calibrate`, on videos that RUN was not trained on, it also finds the temperature with which scores say how
often they are right, from which score on a few frames of a video are as good as all (at most 0.5 points of accuracy
are lost), and how many to begin with, and writes all into the configuration of RUN.
"""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import evaluate
import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, IterableDataset
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from .. import VideoDecodeError, VTNForVideoClassification, VTNVideoProcessor
from ..data.arguments import CollectionArguments
from ..data.coverage import report_coverage
from ..data.feature_cache import hash_weights
from ..data.rows import find_sources
from ..inference.anytime import classify_looks
from ..inference.attention import look_at_example
from ..inference.calibration import Looks, begin_with, calibrate, cross_fit, plan_all_looks, pool_looks
from ..inference.multi_view import MultiView, score_views
from ..inference.repeats import encode_distinct
from ..inference.scores import to_scores
from ..model_card import add_evaluation
from ..outputs import check_outputs, writing
from ..processes import find_processes, together
from ..results import ResultFile, begin_or_go_on, one_run
from ..training.metrics import (
    CalibrationError,
    MeanAveragePrecision,
    MeanClassAccuracy,
    TopAccuracy,
)
from ..training.min_coverage import check_coverage, is_hopeless
from ..training.report import Evaluation, write_report
from ..training.runs import describe_videos
from ..video_decoding_vtn import VideoSource
from .arguments import (
    HELP,
    DTypeName,
    EngineName,
    choose_shared_device,
    load_model,
    load_processor,
    speed_up,
)
from .console import CommandParser, command


@dataclass(kw_only=True)
class EvaluationArguments(CollectionArguments):
    """What to evaluate, on what, and how."""

    model: str = field(metadata={"help": HELP["model"]})
    output_dir: str = field(metadata={"help": HELP["output_dir"]})
    split: str = field(default="val", metadata={"help": HELP["split"]})
    num_frames: int | None = field(default=None, metadata={"help": HELP["num_frames"]})
    fps: float | None = field(default=None, metadata={"help": HELP["fps"]})
    num_clips: int | None = field(default=None, metadata={"help": "clips per video; default: the whole video"})
    num_crops: int = field(default=1, metadata={"help": "crops of each clip"})
    clip_num_frames: int = field(default=16, metadata={"help": HELP["clip_num_frames"]})
    clip_duration_sec: float = field(default=2.56, metadata={"help": HELP["clip_duration_sec"]})
    min_coverage: float = field(default=0.5, metadata={"help": HELP["min_coverage"]})
    calibrate: bool = field(
        default=False, metadata={"help": "fit temperature and confidence, and store them in the model's folder"}
    )
    optimize: bool = field(default=True, metadata={"help": "compute with vtn_hf.optimize"})
    engine: EngineName | None = field(default=None, metadata={"help": HELP["engine"]})
    dtype: DTypeName | None = field(default=None, metadata={"help": HELP["dtype"]})
    update_card: bool = field(default=False, metadata={"help": "add the results to the card in the model's folder"})
    overwrite: bool = field(default=False, metadata={"help": HELP["overwrite"]})
    device: str | None = field(default=None, metadata={"help": HELP["device"]})
    num_workers: int = field(default=2, metadata={"help": HELP["num_workers"]})

    def make_views(self) -> MultiView | None:
        """The views, or nothing for the whole video."""
        if self.num_clips is None:
            return None
        return MultiView(self.num_clips, self.num_crops, self.clip_num_frames, self.clip_duration_sec)

    def check(self):
        """Raises `ValueError` for what does not go together."""
        if self.calibrate and self.num_clips is not None:
            raise ValueError("--calibrate is for whole videos; leave --num_clips out.")
        if self.calibrate and not Path(self.model, "config.json").is_file():
            raise ValueError(f"--calibrate writes into the model's folder, but --model {self.model} is no folder.")
        if not self.optimize and self.engine not in (None, "torch"):
            raise ValueError(f"--engine {self.engine} is part of what --no_optimize leaves out.")


class VideoLoader:
    """Turns a row of the collection into what the model is scored on; what cannot be decoded carries the reason."""

    def __init__(self, processor: VTNVideoProcessor, views: MultiView | None):
        self.processor = processor
        self.views = views

    def __call__(self, rows: dict[str, list]) -> dict[str, list]:
        inputs = [self._load(source) for source in find_sources(rows)]
        return {"inputs": inputs, "label": rows["label"], "id": rows["id"]}

    def _load(self, source: VideoSource) -> dict:
        try:
            if self.views is not None:
                return self.views.load(source, self.processor)
            return dict(self.processor(source, return_tensors="pt"))
        except VideoDecodeError as error:
            return {"error": str(error)}


@torch.no_grad()
def score(model: VTNForVideoClassification, inputs: dict, views: MultiView | None) -> torch.Tensor:
    """Class probabilities of a video, (num_labels,)."""
    inputs = {
        name: tensor.to(model.device, model.dtype if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in inputs.items()
    }
    if views is None:
        scores = to_scores(model, model(**encode_distinct(model, inputs)).logits[0])
    else:
        scores = score_views(model, inputs, optimize=False)
    check_finite(scores)
    return scores


def check_finite(scores: torch.Tensor):
    """Raises `FloatingPointError` unless they are."""
    if not scores.isfinite().all():
        raise FloatingPointError("The scores of the model are not finite numbers, so it has no accuracy.")


@torch.no_grad()
def score_looks(model: VTNForVideoClassification, inputs: dict) -> dict[str, list]:
    """Class probabilities of a video, and the logits of each look at it, coarse to fine."""
    features = model.vtn.get_frame_features(inputs["pixel_values"].to(model.device))[0]
    position_ids = inputs["position_ids"][0].to(model.device)
    looks = classify_looks(model, features, position_ids, plan_all_looks(len(features)))
    check_finite(looks[-1][1])
    return {
        "probabilities": to_scores(model, looks[-1][1]).tolist(),
        "looks": [[count, logits.tolist()] for count, logits in looks],
    }


def calibrate_model(rows: list[dict], is_multi_label: bool, folder: str) -> dict[str, float]:
    """Finds what `--calibrate` finds, writes it into the model's folder, and says what it does."""
    looks = [[(count, torch.tensor(logits)) for count, logits in row["looks"]] for row in rows]
    num_labels = len(looks[0][0][1])
    labels = torch.from_numpy(np.array(make_references(rows, is_multi_label, num_labels)))
    calibration = calibrate(looks, labels)
    calibration.store(folder)
    if is_multi_label:
        return calibration.to_dict()
    errors, looks = {}, begin_with(looks, calibration.min_frames)
    for name, each in (("before", looks), ("after", cross_fit(looks, labels))):
        errors[f"calibration_error_{name}"] = measure_calibration_error([video[-1:] for video in each], labels)
        errors[f"calibration_error_of_all_looks_{name}"] = measure_calibration_error(each, labels)
    return calibration.to_dict() | errors


def measure_calibration_error(looks: list[Looks], labels: torch.Tensor) -> float:
    """Of the looks at all videos."""
    logits, labels = pool_looks(looks, labels)
    return CalibrationError().compute(predictions=logits.softmax(dim=-1), references=labels)["calibration_error"]


def describe_protocol(processor: VTNVideoProcessor, views: MultiView | None) -> str:
    """How the figures were measured, in words."""
    crop = f"{processor.crop_size['height']} x {processor.crop_size['width']}"
    if views is None:
        sampling = processor.frame_sampling if processor.fps is None else f"{processor.fps:g} per second"
        return (
            f"whole videos in one pass, up to {processor.num_frames} frames ({sampling}), one centre crop of {crop}, "
            f"{processor.pixel_protocol} pixels"
        )
    return (
        f"{views.num_clips} clips x {views.num_crops} crops of {crop}, {views.num_frames} frames over "
        f"{views.clip_duration_sec} s each, probabilities averaged, {processor.pixel_protocol} pixels"
    )


def count_multiply_adds(model: VTNForVideoClassification, processor: VTNVideoProcessor, views: MultiView | None):
    """Billions of multiply-adds for a video that has all the frames asked for, counted on the meta device."""
    crop = (3, processor.crop_size["height"], processor.crop_size["width"])
    with torch.device("meta"):
        copy = VTNForVideoClassification(model.config).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            if views is None:
                copy(torch.empty(1, processor.num_frames, *crop))
            else:
                clips = torch.empty(views.num_clips, views.num_frames, dtype=torch.long)
                pixels = torch.empty(views.num_crops, clips.numel(), *crop)
                score_views(copy, {"pixel_values": pixels, "frames": clips, "position_ids": clips})
    return counter.get_total_flops() / 2e9


def read_scores(output_dir: Path) -> dict[int, dict]:
    """What all processes have scored so far, by the number of the video."""
    files = [ResultFile(path, ()) for path in sorted(output_dir.glob("scores-*.jsonl"))]
    return {row["id"]: row for file in files for row in file.records}


def score_all(
    model: VTNForVideoClassification,
    videos: Dataset,
    loader: VideoLoader,
    results: ResultFile,
    args: EvaluationArguments,
) -> Iterator[dict]:
    """
    Scores videos one by one, each of which is in the results at once.

    Raises:
        ValueError: If so many videos cannot be decoded that there is no point in going on.
        FloatingPointError: If scores are not finite.
    """
    stream = DataLoader(
        videos.with_transform(loader),
        batch_size=None,
        num_workers=args.num_workers,
        prefetch_factor=2 if args.num_workers else None,
    )
    num_failed = 0
    for num_tried, (row, name) in enumerate(zip(stream, videos["name"], strict=True), start=1):
        result = {"id": row["id"], "video": name, "label": row["label"]}
        if "error" in row["inputs"]:
            result["error"] = row["inputs"]["error"]
            num_failed += 1
        else:
            result |= (
                score_looks(model, row["inputs"])
                if args.calibrate
                else {"probabilities": score(model, row["inputs"], loader.views).tolist()}
            )
        results.append(result)
        if is_hopeless(num_failed, num_tried, args.min_coverage):
            check_coverage(num_tried - num_failed, num_tried, args.min_coverage, "videos so far")
        yield result


def compute_metrics(scores: list[dict], is_multi_label: bool, num_labels: int) -> dict[str, float]:
    """The accuracies of what was decoded."""
    predictions = [row["probabilities"] for row in scores]
    references = make_references(scores, is_multi_label, num_labels)
    if is_multi_label:
        return MeanAveragePrecision().compute(predictions=predictions, references=references)
    metrics = evaluate.combine([TopAccuracy(), MeanClassAccuracy(), CalibrationError()])
    return metrics.compute(predictions=predictions, references=references)


def make_references(rows: list[dict], is_multi_label: bool, num_labels: int) -> list:
    """The labels of videos: classes, or zeros and ones."""
    labels = [row["label"] for row in rows]
    return [[int(label in each) for label in range(num_labels)] for each in labels] if is_multi_label else labels


def report(
    args: EvaluationArguments,
    model: VTNForVideoClassification,
    protocol: str,
    timing: dict,
    missing_files: list[str],
    bad: dict[str, str],
) -> dict:
    """Turns the scores of all processes into results.json and, if asked for, a part of the card."""
    output_dir = Path(args.output_dir)
    rows = read_scores(output_dir)
    scores = [rows[number] for number in sorted(rows) if "error" not in rows[number]]
    failures = bad | {row["video"]: row["error"] for row in rows.values() if "error" in row}
    num_videos = len(rows) + len(bad) + len(missing_files)
    check_coverage(len(scores), num_videos, args.min_coverage, f"videos of {args.split}")
    is_multi_label = isinstance(scores[0]["label"], list)
    metrics = compute_metrics(scores, is_multi_label, model.config.num_labels)
    results = {
        "protocol": protocol,
        "metrics": metrics,
        "num_videos": num_videos,
        "num_decoded": len(scores),
        "coverage": len(scores) / num_videos,
        "missing": missing_files,
        "not_decoded": failures,
        **timing,
    }
    if args.calibrate:
        results["calibration"] = calibrate_model(scores, is_multi_label, args.model)
    with writing(output_dir / "results.json") as unfinished:
        unfinished.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if args.update_card:
        coverage = f"{len(scores)} of {num_videos} videos"
        dataset = args.dataset_name or Path(args.data_dir).name
        add_evaluation(Path(args.model) / "README.md", dataset, metrics, f"{protocol}; {coverage}")
    return results


def write_page(
    args: EvaluationArguments,
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    videos: Dataset,
    results: dict,
):
    """Writes the report: confusion matrix, classes, and what was wrong."""
    rows = read_scores(Path(args.output_dir))
    numbers = [number for number in sorted(rows) if "error" not in rows[number]]
    labels = [rows[number]["label"] for number in numbers]
    if isinstance(labels[0], list):
        labels = [[int(label in each) for label in range(model.config.num_labels)] for each in labels]
    names, scores = ([rows[number][key] for number in numbers] for key in ("video", "probabilities"))
    damaged = [{"video": name, "reason": reason} for name, reason in results["not_decoded"].items()]
    num_there = results["num_videos"] - len(results["missing"])
    page = write_report(
        Path(args.output_dir, "report"),
        Evaluation(list_class_names(model), names, np.array(labels), np.array(scores)),
        metrics=results["metrics"],
        coverage={args.split: report_coverage(num_there, results["missing"], damaged)},
        look=lambda place: look_at_example(model, processor, videos, numbers[place]),
    )
    print(f"Confusion matrix, classes and videos: {page}")


def list_class_names(model: VTNForVideoClassification) -> list[str]:
    """In the order of the labels."""
    return [model.config.id2label[label] for label in range(model.config.num_labels)]


def load_split(
    args: EvaluationArguments, model: VTNForVideoClassification
) -> tuple[Dataset, list[str], dict[str, str]]:
    """The videos, with a column `id`; the names of those not on disk; and of those that are bad, with the reasons."""
    collection = args.read(list_class_names(model), splits=(args.split,))
    videos = collection.get_split(args.split)
    if isinstance(videos, IterableDataset):
        raise ValueError(f"Evaluation of --split {args.split} needs all of its videos; leave --streaming out.")
    videos = videos.add_column("id", list(range(len(videos))))
    return videos, collection.missing[args.split], collection.bad.get(args.split, {})


def begin(args: EvaluationArguments, model: VTNForVideoClassification, videos: Dataset, protocol: str):
    """Remembers in the folder of the results what they are made with, or compares it with what is remembered there."""
    names = ("model", "split", *(each.name for each in fields(CollectionArguments)))
    settings = {name: getattr(args, name) for name in names}
    settings |= {"weights": hash_weights(model)[:12], "videos": describe_videos(videos), "protocol": protocol}
    settings |= {name: value for name in ("calibrate", "engine", "dtype") if (value := getattr(args, name))}
    output_dir = Path(args.output_dir)
    if not begin_or_go_on(output_dir, settings, args.overwrite):
        for path in (*output_dir.glob("scores-*.jsonl"), output_dir / "results.json"):
            path.unlink(missing_ok=True)


def score_missing(
    args: EvaluationArguments,
    state: PartialState,
    model: VTNForVideoClassification,
    videos: Dataset,
    loader: VideoLoader,
) -> float | None:
    """Scores this process's share of what is not scored yet; returns the speed of all of them, if there was any."""
    output_dir = Path(args.output_dir)
    # What failed is tried again: the reason may be gone.
    done = {number for number, row in read_scores(output_dir).items() if "error" not in row}
    state.wait_for_everyone()  # nobody adds scores while another one still reads
    missing = [number for number in range(len(videos)) if number not in done]
    mine = videos.select(missing[state.process_index :: state.num_processes])
    start = time.monotonic()
    with ResultFile(output_dir / f"scores-{state.process_index:03d}.jsonl", ()) as results:
        model = speed_up(model, args.engine, args.dtype) if args.optimize else model
        scores = score_all(model, mine, loader, results, args)
        for _ in tqdm(scores, total=len(mine), unit="video", disable=not state.is_main_process):
            pass
    state.wait_for_everyone()
    return len(missing) / (time.monotonic() - start) if missing else None


def evaluate_collection(args: EvaluationArguments):
    """Scores what is not scored yet, then reports."""
    state = find_processes(choose_shared_device(args.device))
    args.check()
    output_dir, views = Path(args.output_dir), args.make_views()
    check_outputs([output_dir], filter(None, [args.data_dir]), overwrite=True)
    model = load_model(args.model).to(state.device).eval()
    processor = load_processor(args.model, args.num_frames, args.fps)
    protocol = describe_protocol(processor, views)
    videos, *left_out = load_split(args, model)
    with contextlib.ExitStack() as stack:
        if state.is_main_process:
            output_dir.mkdir(parents=True, exist_ok=True)
            stack.enter_context(one_run(output_dir))
            begin(args, model, videos, protocol)
        state.wait_for_everyone()
        videos_per_second = score_missing(args, state, model, videos, VideoLoader(processor, views))
        if state.is_main_process:
            timing = {
                "videos_per_second": videos_per_second,
                "num_processes": state.num_processes,
                "device": str(state.device),
                "parameters": model.num_parameters(),
                "multiply_adds_g_per_video": count_multiply_adds(model, processor, views),
            }
            results = report(args, model, protocol, timing, *left_out)
            print(json.dumps(results, indent=2))
            write_page(args, model, processor, videos, results)


def make_parser() -> CommandParser:
    parser = CommandParser("evaluate", __doc__)
    parser.add_fields(EvaluationArguments, names=EvaluationArguments.__annotations__)
    parser.add_fields(EvaluationArguments, "the collection")
    return parser


@command("evaluate")
def main(argv: list[str] | None = None):
    """Evaluates as the arguments say."""
    (args,) = make_parser().parse(argv)
    with together():
        evaluate_collection(args)


if __name__ == "__main__":
    sys.exit(main())
