"""
A live stream through ViT-B-VTN on a CPU: the time of a frame over that of the backbone alone, with a prediction every
8 frames over the last 250; equality with the offline pass; and a soak of hours of frames at full speed.

    python examples/benchmarks/streaming.py latency
    python examples/benchmarks/streaming.py soak --hours 2
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from original import add_round, make_vit_b_vtn, measure_seconds, read_status
from whole_video import draw_pictures, make_small_vtn

from vtn_hf import VTNVideoProcessor
from vtn_hf.inference.streaming import StreamingClassifier


RESULTS = Path(__file__).parent / "results"
NUM_HELD, PREDICT_EVERY = 250, 8


@torch.no_grad()
def measure_latency(num_frames: int) -> dict:
    model, processor = make_vit_b_vtn().eval(), VTNVideoProcessor()
    stream = StreamingClassifier(model, processor, num_frames=NUM_HELD, predict_every=PREDICT_EVERY)
    # As after 250 frames: the features do not matter for the time.
    [state] = stream.state_dict()
    state |= {
        "features": torch.randn(NUM_HELD, model.vtn.feature_size),
        "numbers": torch.arange(NUM_HELD),
        "times": [None] * NUM_HELD,
        "num_seen": NUM_HELD - NUM_HELD % PREDICT_EVERY,
    }
    stream.load_state_dict([state])
    pictures = list(draw_pictures(num_frames, 360, 480))
    pixels = [processor(picture[None], return_tensors="pt").pixel_values for picture in pictures]
    model.vtn.get_frame_features(pixels[0])
    backbone, streamed = 0.0, 0.0
    # Interleaved, eight frames at a time, the last of which brings the prediction.
    for first in range(0, num_frames, PREDICT_EVERY):
        part = slice(first, first + PREDICT_EVERY)
        backbone += measure_seconds(lambda part=part: [model.vtn.get_frame_features(frame) for frame in pixels[part]])
        streamed += measure_seconds(lambda part=part: [stream.push([picture]) for picture in pictures[part]])
    inputs = stream.get_inputs()
    difference = stream.predict()[0].logits - model(**inputs).logits[0]
    return {
        "backbone s per frame": backbone / num_frames,
        "stream s per frame": streamed / num_frames,
        "stream / backbone": streamed / backbone,
        "largest difference of logits": difference.abs().max().item(),
    }


def soak(hours: float) -> dict:
    """Memory after each tenth of so many hours at 25 frames per second, of a small model."""
    model, processor = make_small_vtn()
    streams = {
        memory: StreamingClassifier(model, processor, num_frames=NUM_HELD, memory=memory) for memory in ("last", "all")
    }
    pictures = list(draw_pictures(97, 48, 64))
    num_frames = round(hours * 3600 * 25)
    memory = {}
    for number in range(num_frames):
        # Never the same twice in a row, nor in the same order against the tenth.
        picture = np.roll(pictures[number % len(pictures)], number % 64, axis=1)
        for stream in streams.values():
            stream.push([picture], [number / 25])
        if (number + 1) % (num_frames // 10) == 0:
            memory[f"after {(number + 1) / num_frames:.0%}, MB"] = read_status("VmRSS")
    values = list(memory.values())
    return {**memory, "growth from the first tenth to the last, MB": values[-1] - values[0], "frames": num_frames}


def main():
    parser = argparse.ArgumentParser(description="Live streams: time per frame, and memory over hours.")
    parser.add_argument("part", help="latency or soak")
    parser.add_argument("--num_frames", type=int, default=64, help="frames to measure the latency on")
    parser.add_argument("--hours", type=float, default=2, help="length of the soak, in hours of video")
    options = parser.parse_args()
    round = measure_latency(options.num_frames) if options.part == "latency" else soak(options.hours)
    for name, value in add_round(RESULTS / f"streaming_{options.part}.json", round).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
