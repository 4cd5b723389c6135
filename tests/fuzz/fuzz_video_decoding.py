"""
Damages videos at random and decodes them: every outcome must be all frames asked for or a `VideoDecodeError`.

Each case is decoded by a process of its own, forked from one that has everything imported, with limits of time and
memory, so that crashes, hangs and leaks are found and belong to a case. A case is a seed: it always damages the same
file in the same way.

    python tests/fuzz/fuzz_video_decoding.py --cases 5000 --clips ../shared/videos     # or: make fuzz
    python tests/fuzz/fuzz_video_decoding.py --case 1234 --keep damaged.bin            # again, to look into it
"""

import argparse
import json
import os
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import av
import numpy as np
import torch

from vtn_hf import VTNVideoProcessor
from vtn_hf.data.video_frames import iter_video_frames
from vtn_hf.video_decoding_vtn import DecodeLimits, VideoDecodeError, decode_video
from vtn_hf.video_processing_vtn import load_video


TIME_LIMIT_SEC = 20
MEMORY_LIMIT_BYTES = 2**30
LIMITS = DecodeLimits(max_pixels=2**22, max_duration_sec=3600, max_bytes=2**28, max_decode_sec=15)
# Leaves out a part of each frame before it becomes RGB.
PROCESSOR = VTNVideoProcessor(size={"height": 48, "width": 64}, crop_size=24, decode_limits=asdict(LIMITS))
MAX_FILE_BYTES = 400_000
# Formats that cannot tell that something was cut off at their end.
OPEN_ENDED = (".ts", ".flv", ".h264", ".mpg", ".wmv")

# Cases of the generated files that once went wrong; they are run first. Files that mean harm are in hostile_videos.py.
CORPUS = {
    143: "a WMV that is cut between two packets, which it does not tell",
    1302: "an AVI that is cut between two packets, which it does tell",
    2345: "a fragmented MP4 that is cut between two packets, which it does tell",
}

RECIPES = {
    "h264.mp4": ("libx264", {"bf": "2"}, {}),
    "fragmented.mp4": ("libx264", {"bf": "2"}, {"movflags": "frag_keyframe+empty_moov"}),
    "h264.mkv": ("libx264", {"bf": "2"}, {}),
    "hevc.mp4": ("libx265", {"x265-params": "log-level=none:pools=1:frame-threads=1"}, {}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}, {}),
    "mpeg4.avi": ("mpeg4", {}, {}),
    "mjpeg.avi": ("mjpeg", {}, {}),
    "h264.ts": ("libx264", {"bf": "2"}, {}),
    "h264.flv": ("libx264", {}, {}),
    "mpeg1.mpg": ("mpeg1video", {}, {}),
    "raw.h264": ("libx264", {}, {}),
    "wmv2.wmv": ("wmv2", {}, {}),
}


def make_sources(folder: Path, clips: Path | None = None) -> dict[str, bytes]:
    """Files to damage, by name: tiny generated ones and, of a folder of real ones, the small ones."""
    texture = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    sources = {}
    for name, (codec, options, container_options) in RECIPES.items():
        with av.open(folder / name, "w", options=container_options) as container:
            stream = container.add_stream(codec, rate=25, options=options)
            stream.height, stream.width = texture.shape[:2]
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.codec_context.gop_size = 12
            stream.thread_count = 1
            for number in range(30):
                frame = av.VideoFrame.from_ndarray(np.roll(texture, (number, 2 * number), (0, 1)), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        sources[name] = (folder / name).read_bytes()
    for path in sorted(clips.iterdir()) if clips else ():
        if path.suffix != ".md" and path.stat().st_size < MAX_FILE_BYTES:
            sources[path.name] = path.read_bytes()
    return sources


def flip_bytes(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    for _ in range(rng.integers(1, 30)):
        data[rng.integers(len(data))] = rng.integers(256)
    return data


def edit_header(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    """Extreme numbers near the start or the end, where containers keep their tables."""
    for _ in range(rng.integers(1, 6)):
        offset = int(rng.integers(min(len(data), 3000)))
        start = offset if rng.random() < 0.5 else max(0, len(data) - 4 - offset)
        number = rng.choice([0, 1, 0x7F, 0xFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, rng.integers(2**32)])
        size = int(rng.choice([1, 2, 4]))
        data[start : start + size] = (int(number) % 256**size).to_bytes(size, rng.choice(["big", "little"]))
    return data


def truncate(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    return data[: rng.integers(1, len(data))]


def splice(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    """A piece of this file or another one is put somewhere, in place of what is there or before it."""
    donor = others[rng.integers(len(others))] if rng.random() < 0.5 else bytes(data)
    start, size = rng.integers(len(donor)), int(rng.integers(1, 5000))
    target = int(rng.integers(len(data)))
    data[target : target + (size if rng.random() < 0.5 else 0)] = donor[start : start + size]
    return data


def cut_out(data: bytearray, rng: np.random.Generator, others: list[bytes]) -> bytearray:
    start = int(rng.integers(len(data)))
    del data[start : start + int(rng.integers(1, max(2, len(data) // 4)))]
    return data or bytearray(1)


MUTATIONS = (flip_bytes, edit_header, truncate, splice, cut_out)


def damage(seed: int, sources: dict[str, bytes]) -> tuple[str, str, bytes]:
    """The file, the kind of damage and the damaged bytes of a case."""
    rng = np.random.default_rng(seed)
    names = list(sources)
    name = names[rng.integers(len(names))]
    mutation = MUTATIONS[rng.integers(len(MUTATIONS))]
    return name, mutation.__name__, bytes(mutation(bytearray(sources[name]), rng, list(sources.values())))


def decode_damaged(name: str, mutation: str, data: bytes, intact: np.ndarray) -> str:
    """
    Decodes a damaged file in all ways.

    Returns:
        `"error"`, `"same frames"` or `"other frames"`: what decoding all frames gave.

    Raises:
        AssertionError: If frames are missing where the caller asked for all.
    """
    num_files = len(os.listdir("/proc/self/fd"))
    try:
        frames, metadata = decode_video(data, limits=LIMITS)
        assert len(frames) == metadata.total_num_frames > 0
        assert frames.shape[1:] == (metadata.height, metadata.width, 3)
        outcome = "same frames" if np.array_equal(frames, intact) else "other frames"
        if mutation == "truncate" and not name.endswith(OPEN_ENDED):
            assert outcome == "same frames", f"a cut file gave {len(frames)} of {len(intact)} frames"
    except VideoDecodeError:
        outcome = "error"
    for sample in (
        lambda metadata: [metadata.total_num_frames - 1],
        lambda metadata: [0, metadata.total_num_frames // 2],
    ):
        try:
            frames, metadata = decode_video(data, sample, limits=LIMITS)
            assert len(frames) == len(metadata.frames_indices)
        except VideoDecodeError:
            pass
        try:
            pixel_values, metadata = load_video(data, sample, PROCESSOR.pixel_settings, LIMITS)
            assert len(pixel_values) == len(metadata.frames_indices)
        except VideoDecodeError:
            pass
    try:
        num_frames = sum(1 for _ in iter_video_frames(data, limits=LIMITS))
        assert num_frames > 0
    except VideoDecodeError:
        pass
    assert len(os.listdir("/proc/self/fd")) == num_files, "a file was left open"
    return outcome


def start_case(
    seed: int, sources: dict[str, bytes], intact: dict[str, np.ndarray], time_limit_sec: int
) -> tuple[int, int]:
    """Forks a process that runs a case; returns its id and the pipe from which its result can be read."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    try:
        signal.alarm(time_limit_sec)
        memory = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY_LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            name, mutation, data = damage(seed, sources)
            result = decode_damaged(name, mutation, data, intact[name])
        except BaseException as error:
            result = f"{type(error).__name__}: {error}"
        os.write(writer, result.encode()[:4000])
    finally:
        os._exit(0)


def run_cases(
    seeds: list[int], sources: dict[str, bytes], num_jobs: int = 1, time_limit_sec: int = TIME_LIMIT_SEC
) -> tuple[dict[int, str], dict[int, float]]:
    """
    Runs cases, several at a time.

    Returns:
        The result of each case, which is one of `decode_damaged` or says what went wrong; and its seconds.
    """
    torch.set_num_threads(1)
    av.logging.set_level(None)
    intact = {name: decode_intact(data) for name, data in sources.items()}
    results, seconds, running = {}, {}, {}
    waiting = list(reversed(seeds))
    while waiting or running:
        while waiting and len(running) < num_jobs:
            seed = waiting.pop()
            pid, reader = start_case(seed, sources, intact, time_limit_sec)
            running[pid] = (seed, reader, time.monotonic())
        pid, status = os.wait()
        seed, reader, start = running.pop(pid)
        with open(reader, "rb") as pipe:
            result = pipe.read().decode(errors="replace")
        if os.WIFSIGNALED(status):
            number = os.WTERMSIG(status)
            result = "hang" if number == signal.SIGALRM else f"crash: {signal.Signals(number).name}"
        results[seed], seconds[seed] = result or "ended without a result", time.monotonic() - start
    return results, seconds


def decode_intact(data: bytes) -> np.ndarray:
    """All frames, in another process: a thread that FFmpeg starts here would not live on in the forks."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        pid = os.fork()
        if not pid:
            try:
                np.save(file.name, decode_video(data)[0])
            except VideoDecodeError:  # a real clip may be damaged already
                np.save(file.name, np.zeros(0))
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        return np.load(file.name)


def is_good(result: str) -> bool:
    return result in ("error", "same frames", "other frames")


def main():
    """Runs the cases, prints what came of them, and fails if one went wrong."""
    parser = argparse.ArgumentParser(description="Decode videos that are damaged at random.")
    parser.add_argument("--cases", type=int, default=5000, help="number of damaged files")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case; the next ones follow")
    parser.add_argument("--case", type=int, help="run this case only, in this process")
    parser.add_argument("--keep", type=Path, help="with --case: write the damaged file here")
    parser.add_argument("--clips", type=Path, help="folder of real clips to damage beside the generated ones")
    parser.add_argument("--time_limit_sec", type=int, default=TIME_LIMIT_SEC, help="seconds after which a case hangs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        sources = make_sources(Path(folder), options.clips)
    if options.case is not None:
        name, mutation, data = damage(options.case, sources)
        print(f"{name}, {mutation}, {len(data)} bytes")
        if options.keep:
            options.keep.write_bytes(data)
        print(decode_damaged(name, mutation, data, decode_intact(sources[name])))
        return
    start = time.monotonic()
    seeds = list(dict.fromkeys([*CORPUS, *range(options.seed, options.seed + options.cases)]))
    results, seconds = run_cases(seeds, sources, options.jobs, options.time_limit_sec)
    table = Counter((*damage(seed, sources)[:2], result) for seed, result in results.items() if is_good(result))
    print("file, damage: error / same frames / other frames")
    for name in sources:
        for mutation in MUTATIONS:
            counts = [table[name, mutation.__name__, outcome] for outcome in ("error", "same frames", "other frames")]
            print(f"{name}, {mutation.__name__}: {' / '.join(map(str, counts))}")
    failures = {seed: result for seed, result in results.items() if not is_good(result)}
    summary = {
        "cases": len(results),
        "outcomes": Counter(result for result in results.values() if is_good(result)),
        "failures": failures,
        "seconds": round(time.monotonic() - start, 1),
        "slowest_case_sec": round(max(seconds.values()), 2),
    }
    print(json.dumps(summary, indent=2))
    if options.output:
        options.output.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
