"""
A whole video through a VTN on a CPU: time, memory, and what differs, of ViT-B-VTN against the original's computation.

Each call measures one round of one part and adds it to the results, so that no call takes long:

    python examples/benchmarks/whole_video.py speed     # 250 frames, float32 and int8, interleaved
    python examples/benchmarks/whole_video.py memory    # their growth, each in a process of its own
    python examples/benchmarks/whole_video.py chunks    # frames per chunk, and the model as it is
    python examples/benchmarks/whole_video.py backbones # backbones as they are and optimised
    python examples/benchmarks/whole_video.py grid      # a grid of features beside one vector per frame
    python examples/benchmarks/whole_video.py file      # from file to scores, over the backbone alone
    python examples/benchmarks/whole_video.py repeats   # every picture four times
    python examples/benchmarks/whole_video.py length --num_frames 60  # memory from the 1st to the 60th minute
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
import torch
from original import OriginalVTN, add_round, make_vit_b_vtn, measure_memory_growth, measure_seconds

from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor, optimize
from vtn_hf.data.video_frames import iter_video_frames
from vtn_hf.inference.whole_video import classify_video


RESULTS = Path(__file__).parent / "results"
FRAMES_PER_CHUNK = 8
GRID = 4
CONVOLUTIONAL = {
    "ResNet-50": {"model_type": "resnet"},
    "ConvNeXt-T": {"model_type": "convnext"},
    "EfficientNet-Lite0": {"model_type": "timm_wrapper", "architecture": "efficientnet_lite0"},
}


def make_model(name: str) -> VTNForVideoClassification:
    """With random weights, and batch normalisation that keeps features at the size of those of a trained model."""
    if name in ("ViT-B", "grid"):
        return make_vit_b_vtn(frame_grid=GRID if name == "grid" else None).eval()
    torch.manual_seed(0)
    model = VTNForVideoClassification(VTNConfig(backbone_config=CONVOLUTIONAL[name])).train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(make_pixels(4))
    return model.eval()


def make_pixels(num_frames: int) -> torch.Tensor:
    return torch.randn(1, num_frames, 3, 224, 224, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def compare_speed(num_frames: int) -> dict:
    plain = make_vit_b_vtn().eval()
    original = OriginalVTN(plain)
    model, int8 = optimize(plain), optimize(plain, int8=True)
    pixel_values = make_pixels(num_frames)
    for warm_up in (original, model, int8):
        warm_up(pixel_values[:, :FRAMES_PER_CHUNK])
    outputs = {}
    seconds = {
        name: measure_seconds(lambda name=name, function=function: outputs.update({name: function(pixel_values)}))
        for name, function in (
            ("original", original),
            ("float32", lambda pixels: model(pixels).logits),
            ("int8", lambda pixels: int8(pixels).logits),
        )
    }
    few = pixel_values[:, :16]
    cosine = torch.cosine_similarity(model.vtn.get_frame_features(few), int8.vtn.get_frame_features(few), dim=-1)
    return {
        **{f"{name} s": value for name, value in seconds.items()},
        "float32 speedup": seconds["original"] / seconds["float32"],
        "int8 speedup": seconds["original"] / seconds["int8"],
        "float32 largest difference of logits": (outputs["original"] - outputs["float32"]).abs().max().item(),
        "int8 smallest cosine of features": cosine.min().item(),
    }


@torch.no_grad()
def measure_memory(name: str, num_frames: int) -> float:
    """MB, of the original, the model as it is or optimised, ViT-B's, with a grid, or another backbone's."""
    kind, _, backbone = name.partition("-")
    model = make_model(backbone or "ViT-B")
    function = {"original": OriginalVTN, "plain": lambda model: model, "optimised": optimize}[kind](model)
    pixel_values = make_pixels(num_frames)
    return measure_memory_growth(lambda: function(pixel_values))


def compare_memory(num_frames: int) -> dict:
    names = ("original", "plain", "optimised", "plain-EfficientNet-Lite0", "optimised-EfficientNet-Lite0")
    return {f"{name} MB": measure_memory_alone(name, num_frames) for name in names}


def measure_memory_alone(name: str, num_frames: int) -> float:
    """In a process of its own, as memory that was freed once does not count as growth when it is taken again."""
    command = [sys.executable, __file__, f"memory-{name}", "--num_frames", str(num_frames)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@torch.no_grad()
def compare_chunks(num_frames: int) -> dict:
    """A plain call, of the model as it is, with "auto" and with other numbers of frames per chunk, taking turns."""
    round = {}
    for name in ("ViT-B", "EfficientNet-Lite0"):
        model, pixel_values = make_model(name), make_pixels(num_frames)
        seconds = dict.fromkeys(("auto", 1, 2, 4, 8, 16, 32), 0.0)
        model(pixel_values[:, :32])
        for part in pixel_values.split(50, dim=1):
            for size in seconds:
                model.config.frames_per_chunk = size
                seconds[size] += measure_seconds(lambda: model(part)) / num_frames  # noqa: B023
        round |= {f"{name}, {size} per chunk, s per frame": value for size, value in seconds.items()}
        round[f"{name}, auto / best"] = seconds["auto"] / min(seconds.values())
    return round


@torch.no_grad()
def compare_backbones(num_frames: int) -> dict:
    """The backbone alone, plain and optimised, taking turns."""
    round = {}
    for name in ("ViT-B", *CONVOLUTIONAL):
        plain = make_model(name)
        models, pixel_values = {"plain": plain.vtn, "optimised": optimize(plain).vtn}, make_pixels(num_frames)
        features = {kind: model.get_frame_features(pixel_values[:, :8]) for kind, model in models.items()}
        seconds = {kind: [] for kind in models}
        for first in range(0, num_frames, 50):
            for kind, model in models.items():
                part = pixel_values[:, first : first + 50]
                seconds[kind].append(measure_seconds(lambda: model.get_frame_features(part)))  # noqa: B023
        difference = (features["plain"] - features["optimised"]).abs().max() / features["plain"].abs().max()
        round |= {f"{name}, {kind}, s per frame": sum(each) / num_frames for kind, each in seconds.items()}
        round[f"{name}, speedup"] = sum(seconds["plain"]) / sum(seconds["optimised"])
        round[f"{name}, largest difference / largest feature"] = difference.item()
    return round


@torch.no_grad()
def compare_grid(num_frames: int) -> dict:
    """
    What a grid costs, of the optimised model: first the last layer of the backbone, which is whole, then the encoder
    over `1 + GRID ** 2` tokens per frame. Memory as in [`compare_memory`].
    """
    models = {"vector": optimize(make_model("ViT-B")), "grid": optimize(make_model("grid"))}
    pixel_values = make_pixels(num_frames)
    seconds = {f"{name}, {part}": 0.0 for name in models for part in ("backbone", "encoder")}
    features = {name: [] for name in models}
    for model in models.values():
        model(pixel_values[:, :FRAMES_PER_CHUNK])
    for part in pixel_values.split(50, dim=1):
        for name, model in models.items():
            seconds[f"{name}, backbone"] += measure_seconds(
                lambda: features[name].append(model.vtn.get_frame_features(part))  # noqa: B023
            )
    for name, model in models.items():
        whole = torch.cat(features[name], dim=1)
        seconds[f"{name}, encoder"] = measure_seconds(lambda: model(inputs_embeds=whole))  # noqa: B023
    vector, whole_layer = (seconds[f"{name}, backbone"] + seconds["vector, encoder"] for name in models)
    memory = {name: measure_memory_alone(name, num_frames) for name in ("optimised", "optimised-grid")}
    return {
        **{f"{name} s": value for name, value in seconds.items()},
        "last layer whole / class token alone": whole_layer / vector,
        "grid / vector, last layer whole": (seconds["grid, backbone"] + seconds["grid, encoder"]) / whole_layer,
        "growth of memory beside one vector, MB": memory["optimised-grid"] - memory["optimised"],
    }


def write_video(path: Path, frames, fps: int = 25) -> Path:
    """Encodes uint8 RGB pictures; the quantiser is such that repeats of a picture decode to equal frames."""
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "qp": "24"})
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(frames):
            if number == 0:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def draw_pictures(num_frames: int, height: int, width: int):
    """A moving texture, a little like what a camera sees."""
    y, x = np.mgrid[:height, :width] / 16
    for number in range(num_frames):
        red, green, blue = (np.sin(x + number / 7 + shift) * np.cos(y - number / 11 + shift) for shift in range(3))
        yield (127 + 127 * np.stack([red, green, blue], axis=-1)).astype(np.uint8)


@torch.no_grad()
def compare_file(num_frames: int) -> dict:
    model, processor = make_vit_b_vtn(frames_per_chunk=FRAMES_PER_CHUNK).eval(), VTNVideoProcessor()
    with tempfile.TemporaryDirectory() as directory:
        path = write_video(Path(directory) / "video.mp4", draw_pictures(num_frames, 360, 480))
        pixel_values = processor(path, num_frames=num_frames, return_tensors="pt").pixel_values
        model(pixel_values[:, :FRAMES_PER_CHUNK])
        from_file = measure_seconds(lambda: classify_video(model, processor, path))
        backbone = measure_seconds(lambda: model.vtn.get_frame_features(pixel_values))
    return {"from file s": from_file, "backbone s": backbone, "from file / backbone": from_file / backbone}


@torch.no_grad()
def compare_repeats(num_frames: int) -> dict:
    model, processor = make_vit_b_vtn(frames_per_chunk=FRAMES_PER_CHUNK).eval(), VTNVideoProcessor()
    pictures = np.stack(list(draw_pictures(num_frames, 256, 256)))
    repeated = pictures[: (num_frames + 3) // 4].repeat(4, axis=0)[:num_frames]
    classify_video(model, processor, pictures[:FRAMES_PER_CHUNK])
    outputs = {}
    seconds = {
        name: measure_seconds(
            lambda name=name, video=video: outputs.update({name: classify_video(model, processor, video)})
        )
        for name, video in (("without repeats", pictures), ("repeated", repeated))
    }
    # The backbone itself does not look for repeats.
    pixel_values = processor(repeated, do_sample_frames=False, return_tensors="pt").pixel_values[0]
    features = [
        model.vtn.backbone(pixel_values=chunk).last_hidden_state[:, 0]
        for chunk in pixel_values.split(FRAMES_PER_CHUNK)
    ]
    expected = model(inputs_embeds=torch.cat(features)[None]).logits[0]
    return {
        **{f"{name} s": value for name, value in seconds.items()},
        "repeated / without repeats": seconds["repeated"] / seconds["without repeats"],
        "largest difference of logits": (outputs["repeated"].logits - expected).abs().max().item(),
    }


def make_small_vtn() -> tuple[VTNForVideoClassification, VTNVideoProcessor]:
    """A VTN on a small ViT and small pictures, for very long videos."""
    torch.manual_seed(0)
    backbone = {
        "model_type": "vit",
        "hidden_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "image_size": 32,
        "patch_size": 16,
    }
    config = VTNConfig(backbone_config=backbone, num_attention_heads=2, intermediate_size=48, num_labels=10)
    side = {"height": 32, "width": 32}
    return VTNForVideoClassification(config).eval(), VTNVideoProcessor(size={"shortest_edge": 32}, crop_size=side)


def measure_length(num_minutes: int, directory: Path) -> dict:
    """Growth of a process that classifies the first minutes of a long video, for several numbers of them."""
    path = directory / "hour.mp4"
    if not path.exists():
        write_video(path, draw_pictures(num_minutes * 60 * 25, 48, 64))
    growth, minutes = {}, sorted({1, *(num_minutes * share // 6 for share in range(1, 7))} - {0})
    for number in minutes:
        command = [sys.executable, __file__, "memory-length", "--num_frames", str(number * 1500), "--video", str(path)]
        growth[number] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    _plot(growth, Path(__file__).parents[2] / "docs/figures/memory_against_length.png")
    return {
        **{f"{number} min, MB": value for number, value in growth.items()},
        "growth from the first to the last minute, MB": growth[minutes[-1]] - growth[minutes[0]],
    }


def _plot(growth: dict[int, float], path: Path):
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(list(growth), list(growth.values()), marker="o")
    axes.set(xlabel="minutes of video, 25 frames per second", ylabel="growth of memory (MB)", ylim=(0, None))
    figure.savefig(path, dpi=100)


def measure_one_length(num_frames: int, path: Path) -> float:
    model, processor = make_small_vtn()
    classify_video(model, processor, np.zeros((16, 48, 64, 3), dtype=np.uint8))
    return measure_memory_growth(
        lambda: classify_video(model, processor, itertools.islice(iter_video_frames(path), num_frames))
    )


def main():
    parser = argparse.ArgumentParser(description="Whole videos: time and memory against the original's computation.")
    parser.add_argument("part", help="speed, memory, chunks, backbones, grid, file, repeats or length")
    parser.add_argument("--num_frames", type=int, default=250, help="frames of the video (length: minutes)")
    parser.add_argument("--video", type=Path, help="the long video, or the folder to write it to")
    options = parser.parse_args()
    if options.part == "memory-length":
        print(measure_one_length(options.num_frames, options.video))
        return
    if options.part.startswith("memory-"):
        print(measure_memory(options.part.removeprefix("memory-"), options.num_frames))
        return
    if options.part == "length":
        with tempfile.TemporaryDirectory() as directory:
            round = measure_length(options.num_frames, options.video or Path(directory))
    else:
        parts = {
            "speed": compare_speed,
            "memory": compare_memory,
            "chunks": compare_chunks,
            "backbones": compare_backbones,
            "grid": compare_grid,
            "file": compare_file,
            "repeats": compare_repeats,
        }
        round = parts[options.part](options.num_frames)
    for name, value in add_round(RESULTS / f"whole_video_{options.part}.json", round).items():
        print(f"{name}: {value:.4g}")


if __name__ == "__main__":
    main()
