"""
Classifies videos of any length: files, folders or globs, from start to end.

    python examples/classify.py MODEL VIDEOS … --output scores.json
    python examples/classify.py MODEL recording.mp4 --fps 5 --window 50 --save_video annotated.mp4

Prints the best classes of each video, and which class when. `--output` also writes them, as JSON or CSV by its
ending; `--compile` and `--int8` make the backbone faster (of the second it prints how much, and what it does to the
logits); videos that cannot be decoded are listed at the end and make the exit status 1.
"""

import argparse
import csv
import glob
import itertools
import json
import sys
from copy import deepcopy
from pathlib import Path

import av
import torch
from PIL import Image, ImageDraw

from vtn_hf import VideoDecodeError, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.inference.whole_video import Segment, VideoClassification, classify_video
from vtn_hf.optimization.quantization import measure_quantization, quantize_backbone
from vtn_hf.video_decoding_vtn import iter_video_frames


# Of the first video, to tell what int8 does to it.
FRAMES_COMPARED = 8
SUFFIXES = {".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}


def find_videos(sources: list[str]) -> list[str]:
    """Files and URLs as they are, the videos below folders, and what globs match."""
    videos = []
    for source in sources:
        if Path(source).is_dir():
            found = sorted(str(path) for path in Path(source).rglob("*") if path.suffix.lower() in SUFFIXES)
        elif glob.has_magic(source) and not Path(source).exists():
            found = sorted(glob.glob(source, recursive=True))
        else:
            found = [source]
        if not found:
            raise FileNotFoundError(f"{source}: no videos there.")
        videos.extend(found)
    return videos


def rank(scores: torch.Tensor, labels: dict[int, str], top_k: int) -> list[dict]:
    """The best classes, as `pipeline()` gives them."""
    best = scores.topk(min(top_k, len(scores)))
    return [
        {"score": score, "label": labels[index]}
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def describe(path: str, result: VideoClassification, labels: dict[int, str], top_k: int) -> dict:
    """What is printed and written of one video."""
    return {
        "video": path,
        "frames": len(result.video.features),
        "frames_encoded": result.video.num_encoded,
        "duration_sec": result.video.duration,
        "scores": rank(result.scores, labels, top_k),
        "timeline": [
            {
                "first_frame": segment.first_frame,
                "last_frame": segment.last_frame,
                "start_sec": segment.start_sec,
                "end_sec": segment.end_sec,
                "scores": rank(segment.scores, labels, top_k),
            }
            for segment in result.timeline
        ],
    }


def print_summary(row: dict):
    print(f"{row['video']}: " + ", ".join(f"{best['label']} {best['score']:.3f}" for best in row["scores"]))
    for label, parts in itertools.groupby(row["timeline"], key=lambda part: part["scores"][0]["label"]):
        parts = list(parts)
        start, end = parts[0]["start_sec"], parts[-1]["end_sec"]
        span = (
            f"frames {parts[0]['first_frame']} to {parts[-1]['last_frame']}"
            if start is None
            else f"{start:.1f} s to {end:.1f} s"
        )
        print(f"    {span}: {label}")


def write_rows(path: Path, rows: list[dict]):
    """JSON as it is; CSV with one line per class of the whole video (without times) and of each part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
        return
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "start_sec", "end_sec", "label", "score"])
        for row in rows:
            for part in [{"start_sec": None, "end_sec": None, "scores": row["scores"]}, *row["timeline"]]:
                for best in part["scores"]:
                    writer.writerow([row["video"], part["start_sec"], part["end_sec"], best["label"], best["score"]])


def save_annotated(path: Path, source: str, timeline: list[Segment], labels: dict[int, str], fps: float | None):
    """A copy of the video, without sound, with the class of the moment written into the picture."""
    moment = 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=round(fps or 25))
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(iter_video_frames(source)):
            while moment < len(timeline) - 1 and number > timeline[moment].last_frame:
                moment += 1
            picture = Image.fromarray(frame)
            score, index = timeline[moment].scores.max(dim=0)
            text = f"{labels[int(index)]} {score:.2f}"
            draw = ImageDraw.Draw(picture)
            draw.rectangle(draw.textbbox((4, 4), text), fill="black")
            draw.text((4, 4), text, fill="white")
            # The encoder takes even sides only.
            height, width = (side - side % 2 for side in frame.shape[:2])
            if number == 0:
                stream.height, stream.width = height, width
            container.mux(stream.encode(av.VideoFrame.from_image(picture.crop((0, 0, width, height)))))
        container.mux(stream.encode())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Classify videos of any length, from start to end.")
    parser.add_argument("model", help="directory or name on the Hub of a VTN with its processor")
    parser.add_argument("videos", nargs="+", help="files, URLs, folders or globs")
    parser.add_argument("--fps", type=float, help="frames per second to look at (default: every frame)")
    parser.add_argument(
        "--num_frames", type=int, help="frames to look at, spread over each video (default: every frame)"
    )
    parser.add_argument("--window", type=int, help="frames behind each moment of the timeline (default: the model's)")
    parser.add_argument("--stride", type=int, help="frames between moments of the timeline (default: half a window)")
    parser.add_argument("--frames_per_chunk", type=int, help="frames per call of the backbone (default: 8)")
    parser.add_argument("--repeat_threshold", type=float, help="grey levels below which a frame repeats the last one")
    parser.add_argument("--top_k", type=int, default=5, help="classes to show and write")
    parser.add_argument("--output", type=Path, help="file to write, .json or .csv")
    parser.add_argument("--save_video", type=Path, help="annotated copy; a folder if there are several videos")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the backbone: pays off in long videos")
    parser.add_argument("--int8", action="store_true", help="int8 backbone, on a CPU: about twice as fast")
    options = parser.parse_args()
    if options.output is not None and options.output.suffix not in (".json", ".csv"):
        parser.error(f"--output must end in .json or .csv, got {options.output}")
    if options.compile and options.int8:
        parser.error("--compile and --int8 exclude each other")
    return options


def main() -> int:
    options = parse_arguments()
    videos = find_videos(options.videos)
    model = VTNForVideoClassification.from_pretrained(options.model).to(options.device)
    processor = VTNVideoProcessor.from_pretrained(options.model)
    exact = None
    if options.int8:
        exact, model = model, quantize_backbone(deepcopy(model))
    if options.compile:
        model.vtn.get_frame_features = torch.compile(model.vtn.get_frame_features)
    labels = model.config.id2label
    rows, failures = [], []
    for path in videos:
        try:
            if exact is not None:
                inputs = processor(path, num_frames=FRAMES_COMPARED, return_tensors="pt")
                print(f"int8: {measure_quantization(exact, model, inputs)} ({FRAMES_COMPARED} frames of {path})")
                exact = None
            result = classify_video(
                model,
                processor,
                path,
                num_frames=options.num_frames,
                fps=options.fps,
                window=options.window,
                stride=options.stride,
                frames_per_chunk=options.frames_per_chunk,
                repeat_threshold=options.repeat_threshold,
                progress=sys.stderr.isatty(),
            )
        except VideoDecodeError as error:
            failures.append(str(error))
            continue
        rows.append(describe(path, result, labels, options.top_k))
        print_summary(rows[-1])
        if options.save_video is not None:
            copy = options.save_video / f"{Path(path).stem}.mp4" if len(videos) > 1 else options.save_video
            save_annotated(copy, path, result.timeline, labels, result.video.fps)
    if options.output is not None:
        write_rows(options.output, rows)
    if failures:
        print(f"{len(failures)} of {len(videos)} videos cannot be decoded:", *failures, sep="\n    ", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
