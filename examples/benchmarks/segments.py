"""
Measures whether the time to read a segment grows with the length of its file: ten seconds of an hour and of a minute.

    python examples/benchmarks/segments.py --output examples/benchmarks/results/segments.json

The hour is the minute sixty times over, without encoding it anew; in three containers, at a constant and at a variable
rate. Files take turns; a time is the median over segments at random places.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vtn_hf.data.segments import VideoSegment
from vtn_hf.outputs import check_outputs, writing
from vtn_hf.video_decoding_vtn import decode_video


CONTAINERS = ("mp4", "mkv", "ts")
RATE, HEIGHT, WIDTH, SEGMENT_SEC = 25, 240, 320, 10
LENGTHS = {"minute": 1, "hour": 60}  # in minutes
MILLISECONDS = Fraction(1, 1000)


def write_minute(path: Path, is_variable: bool):
    """Writes a minute of moving stripes; at a variable rate a third of the frames is missing, here and there."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"g": "50", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        stream.codec_context.time_base = MILLISECONDS
        for number in range(60 * RATE):
            if is_variable and number > 0 and rng.random() < 1 / 3:
                continue
            picture = np.uint8(127 + 100 * np.sin((columns + 3 * number) / 20) * np.cos(rows / 30))
            frame = av.VideoFrame.from_ndarray(np.repeat(picture[..., None], 3, axis=2), format="rgb24")
            frame.pts, frame.time_base = number * 1000 // RATE, MILLISECONDS
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def repeat(minute: Path, target: Path, num_times: int):
    """Writes a file that shows another one several times, with the same packets."""
    with av.open(str(minute)) as source, av.open(str(target), "w") as container:
        template = source.streams.video[0]
        stream = container.add_stream_from_template(template)
        packets = [packet for packet in source.demux(template) if packet.dts is not None]
        shift, contents = round(60 / template.time_base), [bytes(packet) for packet in packets]
        for number in range(num_times):
            for packet, content in zip(packets, contents, strict=True):
                again = av.Packet(content)
                again.pts, again.dts = packet.pts + number * shift, packet.dts + number * shift
                again.duration, again.time_base = packet.duration, template.time_base
                again.is_keyframe, again.stream = packet.is_keyframe, stream
                container.mux(again)


def measure(files: dict[str, Path], num_segments: int) -> dict[str, float]:
    """Seconds to decode a segment of each file: medians."""
    rng = np.random.default_rng(0)
    shares = rng.random(num_segments + 1)
    times = {name: [] for name in files}
    for share in shares:
        for name, path in files.items():
            start = round(share * (60 * LENGTHS[name] - SEGMENT_SEC - 1), 3)
            begin = time.perf_counter()
            frames, _ = decode_video(VideoSegment(str(path), start, start + SEGMENT_SEC))
            times[name].append(time.perf_counter() - begin)
            if not 0.5 * SEGMENT_SEC * RATE < len(frames) <= SEGMENT_SEC * RATE + 1:
                raise ValueError(f"{path}: {len(frames)} frames in the segment from {start} s on.")
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def main(argv: list[str] | None = None) -> int:
    """Writes the files, measures, and prints the ratios."""
    parser = argparse.ArgumentParser(description="Ten seconds of an hour beside ten seconds of a minute.")
    parser.add_argument("--output", type=Path, required=True, help="the times, as JSON")
    parser.add_argument("--num_segments", type=int, default=15, help="segments of each file")
    options = parser.parse_args(argv)
    check_outputs([options.output], [], overwrite=True)
    results = {"machine": platform.processor() or platform.machine(), "num_segments": options.num_segments, "rows": []}
    with tempfile.TemporaryDirectory() as folder:
        for rate in ("constant", "variable"):
            write_minute(Path(folder, f"{rate}.mkv"), rate == "variable")
            for container in CONTAINERS:
                files = {name: Path(folder, f"{rate}_{name}.{container}") for name in LENGTHS}
                for name, path in files.items():
                    repeat(Path(folder, f"{rate}.mkv"), path, LENGTHS[name])
                seconds = measure(files, options.num_segments)
                ratio = seconds["hour"] / seconds["minute"]
                results["rows"].append({"rate": rate, "container": container, **seconds, "ratio": ratio})
                shown = "  ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
                print(f"{container}, {rate} rate: {shown}  ratio {ratio:.2f}", flush=True)
    with writing(options.output) as path:
        path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
