"""
Draws what a Video Transformer Network looked at in a video.

    python examples/plot_attention.py --model RUN --video VIDEO.mp4 --output_dir PICTURES
    python examples/plot_attention.py --model RUN --event_videos ROOT/val --output_dir PICTURES

The first prints the classes and writes `attention.png`: a strip of frames above the class token's attention over the
video, averaged, as in the paper's figure, and for each layer and head; `maps.png`: what counts within those frames, by
attention rollout (https://arxiv.org/abs/2005.00928) for a backbone with a class token and by Grad-CAM
(https://arxiv.org/abs/1610.02391) for a convolutional one; and `overlay.mp4`: all frames with their maps, and the
attention below them. The second asks how much of the attention falls on the frames of the events in videos of
`drawn_videos.event_videos`, and writes `event_attention.json`; videos that cannot be decoded are listed at the end.
The exit status is 1 where something could not be drawn or decoded.
"""

import argparse
import json
import sys
from pathlib import Path

import matplotlib
import numpy as np
import torch
from torch import nn
from tqdm import tqdm


matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402 - the backend comes first

from drawn_videos.drawing import encode  # noqa: E402
from drawn_videos.event_videos import read_schedule  # noqa: E402
from vtn_hf import VideoDecodeError, VTNForVideoClassification, VTNVideoProcessor  # noqa: E402
from vtn_hf.backbone_vtn import has_class_token  # noqa: E402
from vtn_hf.inference.attention import Look, look_at  # noqa: E402
from vtn_hf.outputs import check_outputs, writing  # noqa: E402


NUM_STRIP_FRAMES = 12
# Grad-CAM reads the deepest feature map that has so many rows and columns.
MIN_MAP_SIDE = 7


def map_frames(model: VTNForVideoClassification, look: Look, numbers: np.ndarray) -> np.ndarray:
    """What counts within some frames, as large as the pictures, (numbers, height, width) from 0 to 1 in each."""
    maps = roll_out(model, look, numbers) if has_class_token(model.vtn.backbone) else grad_cam(model, look, numbers)
    maps = nn.functional.interpolate(maps[:, None], size=look.pictures.shape[1:3], mode="bilinear")[:, 0].cpu().numpy()
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)


@torch.no_grad()
def roll_out(model: VTNForVideoClassification, look: Look, numbers: np.ndarray) -> torch.Tensor:
    """
    How much of each patch reaches the class token of the backbone, if half of what a layer passes on is its input and
    half what it attends to: (numbers, rows, columns).
    """
    backbone = model.vtn.backbone
    implementation = backbone.config._attn_implementation
    backbone.set_attn_implementation("eager")  # the only one that tells its weights
    flows = []
    for number in numbers:
        attentions = backbone(look.inputs["pixel_values"][0, number][None], output_attentions=True).attentions
        flow = torch.eye(attentions[0].shape[-1], device=model.device)
        for attention in attentions:
            flow = (attention[0].mean(dim=0) + torch.eye(len(flow), device=model.device)) / 2 @ flow
        flows.append(flow[0])
    backbone.set_attn_implementation(implementation)
    patch_size = backbone.config.patch_size
    rows, columns = (side // patch_size for side in look.inputs["pixel_values"].shape[-2:])
    # Before the patches are the class token and whatever else the backbone adds.
    return torch.stack(flows)[:, -rows * columns :].unflatten(1, (rows, columns))


def grad_cam(model: VTNForVideoClassification, look: Look, numbers: np.ndarray) -> torch.Tensor:
    """
    The channels of a feature map of the backbone, weighted by what they do for the score of the class that the model
    chose: (numbers, rows, columns), zero where they speak against it.
    """
    pixel_values, backbone = look.inputs["pixel_values"], model.vtn.backbone
    features = look.video.features[None].detach().requires_grad_(True)
    logits = model(inputs_embeds=features, position_ids=look.inputs["position_ids"]).logits[0]
    # (frames, features): what each feature of each frame does for the score.
    (influence,) = torch.autograd.grad(logits[look.probabilities.argmax()], features)
    hidden_states = []
    hook = backbone.register_forward_hook(lambda *args: hidden_states.append(args[-1].hidden_states))
    record_before, backbone.config.output_hidden_states = backbone.config.output_hidden_states, True
    maps = []
    for number in numbers:
        score = (model.vtn.get_frame_features(pixel_values[:, number, None]) * influence[:, number]).sum()
        large = [state for state in hidden_states.pop() if state.ndim == 4 and min(state.shape[2:]) >= MIN_MAP_SIDE]
        if not large:
            raise ValueError(f"{type(backbone).__name__} has no feature map of {MIN_MAP_SIDE} rows and columns.")
        (gradient,) = torch.autograd.grad(score, large[-1])
        maps.append((gradient.mean(dim=(2, 3), keepdim=True) * large[-1]).sum(dim=1)[0].relu().detach())
    hook.remove()
    backbone.config.output_hidden_states = record_before
    return torch.stack(maps)


def overlay(pictures: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Pictures (frames, height, width, 3) with maps (frames, height, width) in colour on them, uint8."""
    colours = matplotlib.colormaps["inferno"](maps)[..., :3] * 255
    return (0.5 * pictures + 0.5 * colours).round().astype(np.uint8)


def plot_attention(look: Look, path: Path, title: str, events: tuple[range, ...] = ()):
    """Draws the strip, the averaged attention and that of each layer and head; events are spans of frame numbers."""
    strip = look.choose_frames(NUM_STRIP_FRAMES)
    num_layers, num_heads, num_frames = look.attention.shape
    figure = plt.figure(figsize=(14, 5 + 0.14 * num_layers * num_heads), layout="constrained")
    grid = figure.add_gridspec(3, len(strip), height_ratios=[1.2, 1.5, 0.25 * num_layers * num_heads])
    for column, number in enumerate(strip):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(look.pictures[number])
        axes.set_title(f"{look.times[number]:.1f} s", fontsize=8)
        axes.axis("off")
    curve = figure.add_subplot(grid[1, :])
    for event in events:
        curve.axvspan(event.start - 0.5, event.stop - 0.5, color="C2", alpha=0.3, label="event")
    curve.plot(look.mean_attention, color="black")
    curve.plot(strip, look.mean_attention[strip], "o", color="C3", markersize=4, label="frames above")
    curve.axhline(look.mean_attention.mean(), linestyle=":", color="gray", label="attention spread evenly")
    curve.set(xlim=(-0.5, num_frames - 0.5), ylabel="attention")
    curve.set_title(title, parse_math=False)  # a `$` in a name is a dollar
    handles = {label: handle for handle, label in zip(*curve.get_legend_handles_labels(), strict=True)}
    curve.legend(handles.values(), handles.keys(), fontsize=8)
    heads = figure.add_subplot(grid[2, :])
    heads.imshow(look.attention.reshape(-1, num_frames), aspect="auto", interpolation="nearest", cmap="viridis")
    heads.set_yticks(
        range(num_layers * num_heads),
        [f"layer {layer + 1}, head {head + 1}" for layer in range(num_layers) for head in range(num_heads)],
        fontsize=7,
    )
    heads.set_xlabel(f"frame, {num_frames} of the video")
    figure.savefig(path, dpi=90, format="png")
    plt.close(figure)


def plot_maps(look: Look, strip: np.ndarray, maps: np.ndarray, path: Path):
    """Draws frames above the same frames with their maps."""
    figure, rows = plt.subplots(2, len(strip), figsize=(1.2 * len(strip), 2.8), layout="constrained", squeeze=False)
    for axes, picture in zip(rows.flat, [*look.pictures[strip], *overlay(look.pictures[strip], maps)], strict=True):
        axes.imshow(picture)
        axes.axis("off")
    for axes, number in zip(rows[0], strip, strict=True):
        axes.set_title(f"{look.times[number]:.1f} s", fontsize=8)
    figure.savefig(path, dpi=90, format="png")
    plt.close(figure)


def write_overlay(model: VTNForVideoClassification, look: Look, path: Path, min_side: int = 256):
    """Writes a video of the frames with their maps above a bar chart of the attention, the current frame marked."""
    pictures = overlay(look.pictures, map_frames(model, look, np.arange(len(look.times))))
    scale = -(-min_side // min(pictures.shape[1:3]))
    pictures = pictures.repeat(scale, axis=1).repeat(scale, axis=2)
    width, height = pictures.shape[2], 64
    # The frame that each column of the chart belongs to, and which of its pixels, counted from below, are filled.
    frame = np.arange(width) * len(look.times) // width
    filled = np.arange(height)[::-1, None] < look.mean_attention[frame] / look.mean_attention.max() * height
    chart = np.where(filled[..., None], 200, 30).astype(np.uint8) * np.ones(3, dtype=np.uint8)
    charts = np.tile(chart, (len(pictures), 1, 1, 1))
    is_current = frame[None] == np.arange(len(pictures))[:, None]
    charts.transpose(0, 2, 1, 3)[is_current] = (230, 60, 30)
    frames = np.concatenate([pictures, charts], axis=1)
    frames = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    duration = look.times[-1] - look.times[0]
    encode(path, frames, max(1, round((len(frames) - 1) / duration)) if duration > 0 else 1)


def draw(model: VTNForVideoClassification, processor: VTNVideoProcessor, video: Path, output_dir: Path):
    """Writes the three pictures of a video and prints its classes."""
    look = look_at(model, processor, video)
    best = look.probabilities.topk(min(5, len(look.probabilities)))
    for probability, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"{probability:.3f}  {model.config.id2label[label]}")
    title = f"{video.name}: {model.config.id2label[best.indices[0].item()]} ({best.values[0]:.2f})"
    strip = look.choose_frames(NUM_STRIP_FRAMES)
    with writing(output_dir / "attention.png") as path:
        plot_attention(look, path, title, find_events(video, look))
    with writing(output_dir / "maps.png") as path:
        plot_maps(look, strip, map_frames(model, look, strip), path)
    with writing(output_dir / "overlay.mp4") as path:
        write_overlay(model, look, path)


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


def parse_arguments(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    parser = argparse.ArgumentParser("plot_attention.py", description="What a VTN looked at.")
    parser.add_argument("--model", required=True, help="a VTN: a directory or a repository on the Hub")
    parser.add_argument("--output_dir", type=Path, required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--video", type=Path, help="a video to draw")
    what.add_argument("--event_videos", type=Path, help="a split of a folder of event videos to measure")
    parser.add_argument("--num_frames", type=int, help="frames of the video; default: as the processor says")
    parser.add_argument("--overwrite", action="store_true", help="replace the outputs that are there")
    return parser, parser.parse_args(argv)


def find_inputs(options: argparse.Namespace) -> list[Path]:
    """The videos, if they are there and no output would be one of them, or of the model."""
    if options.video is not None:
        videos, names = [options.video], ("attention.png", "maps.png", "overlay.mp4")
    else:
        videos, names = sorted(options.event_videos.glob("*/*.mp4")), ("event_attention.json",)
    if not videos or not videos[0].is_file():
        raise FileNotFoundError(f"{options.video or options.event_videos}: no videos there.")
    outputs = [options.output_dir / name for name in names]
    check_outputs(outputs, [*videos, *Path(options.model).glob("*")], options.overwrite)
    return videos


def main(argv: list[str] | None = None) -> int:
    """Draws one video, or measures a collection; returns the exit status."""
    parser, options = parse_arguments(argv)
    try:
        videos = find_inputs(options)
        model = VTNForVideoClassification.from_pretrained(options.model).eval()
        overrides = {} if options.num_frames is None else {"num_frames": options.num_frames}
        processor = VTNVideoProcessor.from_pretrained(options.model, **overrides)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    failures = []
    try:
        if options.video is not None:
            draw(model, processor, options.video, options.output_dir)
        else:
            measured, failures = measure_events(model, processor, videos)
            print(json.dumps(measured, indent=2))
            with writing(options.output_dir / "event_attention.json") as path:
                path.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    except ValueError as error:
        failures.append(str(error))
    if failures:
        print(f"{len(failures)} of {len(videos)} videos failed:", *failures, sep="\n    ", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
