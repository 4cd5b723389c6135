"""
How much of a model's attention falls on the events in videos of `drawn_videos.event_videos`.

    python examples/event_attention.py --model RUN --data_dir ROOT/val --output_dir PICTURES
    python examples/event_attention.py --model RUN --video ROOT/val/CLASS/VIDEO.mp4 --output_dir PICTURES

The first writes event_attention.json; videos that cannot be decoded are listed at the end, and make the exit status 1.
The second draws a video as `vtn attention` does, with its events marked.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from drawn_videos.event_videos import read_schedule
from vtn_hf import VideoDecodeError, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.commands.attention import draw
from vtn_hf.inference.attention import Look, look_at
from vtn_hf.outputs import check_outputs, writing


def find_events(video: Path, look: Look) -> tuple[range, ...]:
    """Where among the model's frames the events of a generated video are; nothing for any other video."""
    try:
        events = read_schedule(video).events
    except (FileNotFoundError, ValueError, IndexError):
        return ()
    numbers = look.inputs["position_ids"][0].cpu().numpy()
    return tuple(range(*np.searchsorted(numbers, (event.start, event.stop))) for event in events)


def measure_events(
    model: VTNForVideoClassification, processor: VTNVideoProcessor, videos: list[Path]
) -> tuple[dict, list[str]]:
    """
    How much of the attention falls on the frames of the events, and how much would if it were spread evenly.

    Returns:
        The figures, and the errors of the videos that cannot be decoded.
    """
    shares, chances, peaks, failures = [], [], [], []
    for video in tqdm(videos, unit="video"):
        try:
            look = look_at(model, processor, video)
        except VideoDecodeError as error:
            failures.append(str(error))
            continue
        is_event = np.zeros(len(look.times), dtype=bool)
        for event in find_events(video, look):
            is_event[event.start : event.stop] = True
        # (layers,): the share of the attention to frames, averaged over heads.
        shares.append((look.attention[..., is_event].sum(-1) / look.attention.sum(-1)).mean(axis=1))
        chances.append(is_event.mean())
        peaks.append(bool(is_event[look.mean_attention.argmax()]))
    if not shares:
        raise VideoDecodeError(f"None of the {len(videos)} videos can be decoded: {failures[0]}")
    share = np.mean(shares, axis=0)
    figures = {
        "num_videos": len(shares),
        "attention_on_events_by_layer": share.tolist(),
        "attention_on_events": float(share.mean()),
        "chance": float(np.mean(chances)),
        "ratio": float(share.mean() / np.mean(chances)),
        "most_attended_frame_is_in_event": float(np.mean(peaks)),
    }
    return figures, failures


def main(argv: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser("event_attention.py", description=__doc__.splitlines()[1])
    parser.add_argument("--model", required=True, help="a VTN: a folder or a repository on the Hub")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data_dir", type=Path, help="a split of a folder of event videos to measure")
    what.add_argument("--video", type=Path, help="a video to draw")
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args(argv)
    model = VTNForVideoClassification.from_pretrained(options.model).eval()
    processor = VTNVideoProcessor.from_pretrained(options.model)
    if options.video is not None:
        draw(model, processor, options.video, options.output_dir, partial(find_events, options.video))
        return 0
    videos, output = sorted(options.data_dir.glob("*/*.mp4")), options.output_dir / "event_attention.json"
    check_outputs([output], videos)
    measured, failures = measure_events(model, processor, videos)
    print(json.dumps(measured, indent=2))
    with writing(output) as path:
        path.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    if failures:
        print(f"{len(failures)} of {len(videos)} videos failed:", *failures, sep="\n    ", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
