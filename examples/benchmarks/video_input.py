"""
Measures how fast videos become model inputs: this package, transformers' own path, torchcodec and decord.

All loaders take the same frames of the same clip to 224 x 224 (short side 256, centre crop) and are interleaved in one
process; the floor is PyAV decoding up to the last frame with all its threads and converting none. Memory is measured
in a process of its own for each loader. Then: random clips before and after `vtn prepare`, what a
DataLoader delivers, and memory over many clips.

    python examples/benchmarks/video_input.py --clips CLIP.mp4 LARGE.avi \
        --output examples/benchmarks/results/video_input.json

torchcodec and decord take part where they can be imported.
"""

import argparse
import functools
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


sys.path.append(str(Path(__file__).parents[1]))

NUM_THREADS = 1  # of torch; decoders choose their own
SELECTIONS = {"16 frames, stride 8": (16, 8), "250 frames": (250, None)}


def choose_frames(total: int, num_frames: int, stride: int | None) -> list[int]:
    """Numbers of the frames: a central clip, or spread over the whole video."""
    if stride is None:
        return np.linspace(0, total - 1, min(num_frames, total)).astype(int).tolist()
    start = max(0, (total - num_frames * stride) // 2)
    return [min(start + stride * number, total - 1) for number in range(num_frames)]


def make_floor():
    import av

    def load(path: str, numbers: list[int]):
        with av.open(path) as container:
            stream = container.streams.best("video")
            stream.thread_type = "AUTO"
            for number, _ in enumerate(container.decode(stream)):
                if number == numbers[-1]:
                    return

    return load


def make_vtn(**settings):
    from vtn_hf import VTNVideoProcessor
    from vtn_hf.video_processing_vtn import load_video

    pixels = VTNVideoProcessor(**settings).pixel_settings

    def load(path: str, numbers: list[int]):
        return load_video(path, lambda metadata: numbers, pixels)[0]

    return load


def make_transformers(class_name: str):
    import transformers
    from transformers.video_utils import load_video

    processor = getattr(transformers, class_name)(
        size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, resample=2
    )

    def load(path: str, numbers: list[int]):
        frames, _ = load_video(path, backend="pyav", sample_indices_fn=lambda metadata, **kwargs: numbers)
        return processor(list(frames), return_tensors="pt").pixel_values

    return load


def make_torchcodec():
    from torchcodec.decoders import VideoDecoder

    from vtn_hf import VTNVideoProcessor

    processor = VTNVideoProcessor(do_sample_frames=False)

    def load(path: str, numbers: list[int]):
        decoder = VideoDecoder(path, seek_mode="exact", num_ffmpeg_threads=0)
        return processor(decoder.get_frames_at(numbers).data, return_tensors="pt").pixel_values

    return load


def make_decord():
    from decord import VideoReader

    from vtn_hf import VTNVideoProcessor

    processor = VTNVideoProcessor(do_sample_frames=False)

    def load(path: str, numbers: list[int]):
        return processor(VideoReader(path).get_batch(numbers).asnumpy(), return_tensors="pt").pixel_values

    return load


UINT8 = {"do_rescale": False, "do_normalize": False}
LOADERS = {
    "floor": make_floor,
    "vtn_hf, uint8": lambda: make_vtn(**UINT8),
    "vtn_hf, float": make_vtn,
    "vtn_hf, libswscale, uint8": lambda: make_vtn(pixel_protocol="libswscale", **UINT8),
    "transformers, PIL": lambda: make_transformers("VideoMAEImageProcessorPil"),
    "transformers, torchvision": lambda: make_transformers("VideoMAEImageProcessor"),
    "torchcodec": make_torchcodec,
    "decord": make_decord,
}


def make_loaders(names) -> dict:
    """The loaders that work here; says why of the others."""
    loaders = {}
    for name in names:
        try:
            loaders[name] = LOADERS[name]()
        except (ImportError, OSError, RuntimeError, AttributeError) as error:
            print(f"without {name}: {str(error).splitlines()[0]}", flush=True)
    return loaders


def count_frames(path: str) -> int:
    from vtn_hf.video_decoding_vtn import decode_video

    return decode_video(path, lambda metadata: [0])[1].total_num_frames


def measure_times(path: str, loaders: dict, num_rounds: int, max_sec: float) -> list[dict]:
    """Median seconds of each loader, interleaved, and their ratios to the floor."""
    rows = []
    total = count_frames(path)
    for title, (num_frames, stride) in SELECTIONS.items():
        numbers = choose_frames(total, num_frames, stride)
        seconds = {name: [] for name in loaders}
        working = dict(loaders)
        start = time.monotonic()
        for round_number in range(num_rounds + 1):
            for name, load in list(working.items()):
                begin = time.perf_counter()
                try:
                    load(path, numbers)
                except Exception as error:  # a peer may not read this clip
                    print(f"{name} cannot load {path}: {error}", flush=True)
                    del working[name]
                    continue
                if round_number > 0:
                    seconds[name].append(time.perf_counter() - begin)
            if time.monotonic() - start > max_sec and round_number >= 3:
                break
        medians = {name: statistics.median(values) for name, values in seconds.items() if values}
        for name, median in medians.items():
            rows.append(
                {
                    "clip": Path(path).name,
                    "frames": f"{title} ({len(set(numbers))} of {total})",
                    "loader": name,
                    "seconds": round(median, 4),
                    "to_floor": round(median / medians["floor"], 2),
                    "rounds": len(seconds[name]),
                }
            )
    return rows


MEMORY_PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from video_input import *
torch.set_num_threads(NUM_THREADS)
def read(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
load = LOADERS[{name!r}]()
load({path!r}, [0])
before = read("VmRSS")
load({path!r}, choose_frames(count_frames({path!r}), 250, None))
print(read("VmHWM") - before)
"""


def measure_memory(path: str, names) -> dict[str, float]:
    """MB by which the memory of a fresh process peaks while it loads 250 frames, after it has loaded one."""
    growth = {}
    for name in names:
        program = MEMORY_PROGRAM.format(folder=str(Path(__file__).parent), name=name, path=path)
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        if result.returncode == 0:
            growth[name] = round(float(result.stdout.split()[-1]), 1)
        else:
            print(f"no memory of {name}: {result.stderr.strip().splitlines()[-1]}", flush=True)
    return growth


class RandomClips(Dataset):
    """Random clips of 16 frames at stride 8 of one file."""

    def __init__(self, path: str, total: int, length: int):
        self.path, self.total, self.length = path, total, length

    @functools.cached_property
    def load(self):
        """Made in the worker that uses it."""
        return make_vtn(**UINT8)

    def __len__(self):
        return self.length

    def __getitem__(self, item: int) -> torch.Tensor:
        start = np.random.default_rng(item).integers(0, self.total - 121)
        return self.load(self.path, (start + 8 * np.arange(16)).tolist())[0]


def measure_prepared(path: str, num_clips: int) -> dict:
    """Seconds of a random clip from the source and from what `vtn prepare` makes of it, by one and two workers."""
    from vtn_hf.commands.prepare import prepare_video
    from vtn_hf.video_decoding_vtn import DecodeLimits

    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.mp4"
        prepare_video((Path(path), prepared), short_side=256, key_frame_distance=4, crf=23, limits=DecodeLimits())
        total = count_frames(path)
        result = {"source_bytes": Path(path).stat().st_size, "prepared_bytes": prepared.stat().st_size}
        for name, each in (("source", path), ("prepared", str(prepared))):
            for num_workers in (1, 2):
                clips = RandomClips(each, total, num_clips)
                iterator = iter(DataLoader(clips, batch_size=None, num_workers=num_workers))
                next(iterator)
                begin = time.perf_counter()
                for _ in iterator:
                    pass
                result[f"{name}_clip_sec_{num_workers}_workers"] = (time.perf_counter() - begin) / (num_clips - 1)
            result[f"{name}_frames_per_sec_2_workers"] = 16 / result[f"{name}_clip_sec_2_workers"]
            result[f"{name}_share_waiting"] = measure_waiting(clips)
        for num_workers in (1, 2):
            source, faster = (result[f"{name}_clip_sec_{num_workers}_workers"] for name in ("source", "prepared"))
            result[f"speedup_{num_workers}_workers"] = source / faster
        return {name: round(value, 4) for name, value in result.items()}


def measure_waiting(clips: Dataset) -> float:
    """The share of training steps that is spent waiting for data: 2 workers, a small VTN on this machine's CPU."""
    from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor

    backbone = {"model_type": "resnet", "layer_type": "basic", "embedding_size": 16, "hidden_sizes": [16, 32, 64, 128]}
    config = VTNConfig(backbone_config={**backbone, "depths": [1] * 4}, num_attention_heads=4, num_labels=10)
    model = VTNForVideoClassification(config).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    processor = VTNVideoProcessor()
    waiting = 0.0
    iterator = iter(DataLoader(clips, batch_size=4, num_workers=2))
    next(iterator)
    begin = mark = time.perf_counter()
    for batch in iterator:
        waiting += time.perf_counter() - mark
        pixel_values = processor.normalize_uint8(batch)
        model(pixel_values, labels=torch.zeros(len(batch), dtype=torch.long)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mark = time.perf_counter()
    return round(waiting / (mark - begin), 3)


def soak(num_clips: int) -> dict[int, float]:
    """MB of resident memory, by the number of clips loaded so far; tiny clips, made here."""
    from drawn_videos.motion_clips import write_motion_clips

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    memory = {}
    load = make_vtn(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}, **UINT8)
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(map(str, write_motion_clips(Path(folder) / "clips", 40, 0, num_workers=1).rglob("*.mp4")))
        for number in range(num_clips + 1):
            if number % max(1, num_clips // 10) == 0:
                memory[number] = round(resident(), 1)
                print(f"{number} clips: {memory[number]} MB", flush=True)
            load(paths[number % len(paths)], list(range(0, 16)))
    return memory


def find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How fast videos become model inputs.")
    parser.add_argument("--clips", nargs="+", required=True, help="video files")
    parser.add_argument("--parts", nargs="+", default=["times", "memory", "prepared"], help="and: soak")
    parser.add_argument("--loaders", nargs="+", default=list(LOADERS), choices=list(LOADERS))
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds of each loader")
    parser.add_argument("--max_sec", type=float, default=60, help="seconds per clip and selection, about")
    parser.add_argument("--num_clips", type=int, default=160, help="random clips per measurement of `prepared`")
    parser.add_argument("--soak_clips", type=int, default=20000, help="clips of `soak`")
    parser.add_argument("--output", type=Path, help="JSON file to write, or to add to")
    return parser.parse_args()


def main():
    """Measures, prints tables and writes JSON, which later parts are added to."""
    options = parse_arguments()
    torch.set_num_threads(NUM_THREADS)
    results = json.loads(options.output.read_text()) if options.output and options.output.exists() else {}
    results["machine"] = {
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "torch_threads": NUM_THREADS,
        "python": platform.python_version(),
        **{name: find_version(name) for name in ("torch", "transformers", "av", "torchcodec", "decord")},
    }

    def save():
        if options.output:
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

    if "times" in options.parts:
        loaders = make_loaders(options.loaders)
        results["times"] = []
        print("| clip | frames | loader | seconds | to the floor |\n| --- | --- | --- | --- | --- |")
        for clip in options.clips:
            for row in measure_times(clip, loaders, options.rounds, options.max_sec):
                results["times"].append(row)
                cells = (row[name] for name in ("clip", "frames", "loader", "seconds", "to_floor"))
                print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        save()
    if "memory" in options.parts:
        results["memory_growth_mb"] = {
            Path(clip).name: measure_memory(clip, options.loaders) for clip in options.clips
        }
        print(json.dumps(results["memory_growth_mb"], indent=2))
        save()
    if "prepared" in options.parts:
        results["prepared"] = measure_prepared(options.clips[0], options.num_clips)
        print(json.dumps(results["prepared"], indent=2))
        save()
    if "soak" in options.parts:
        results["soak_mb"] = soak(options.soak_clips)
        save()


if __name__ == "__main__":
    main()
