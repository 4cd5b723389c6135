"""
Pictures of what a Video Transformer Network looked at; needs matplotlib.

Within frames: the class token's attention to places, where the model has a grid of them; else attention rollout
(https://arxiv.org/abs/2005.00928) for a backbone with a class token, and Grad-CAM (https://arxiv.org/abs/1610.02391)
for a convolutional one.
"""

from pathlib import Path

import av
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from ..backbone_vtn import has_class_token
from ..modeling_vtn import VTNForVideoClassification
from .attention import Look
from .whole_video import make_timeline


NUM_STRIP_FRAMES = 12
# Grad-CAM reads the deepest feature map that has so many rows and columns.
MIN_MAP_SIDE = 7


def map_frames(model: VTNForVideoClassification, look: Look, numbers: np.ndarray) -> np.ndarray:
    """
    Maps of what counts within frames, in the size of the pictures: (numbers, height, width), from 0 to 1. Of places it
    is the share of the frame's attention, on one scale for the video: where all places count alike, it shows.
    """
    if look.places is not None:
        shares = look.places / np.maximum(look.places.sum(axis=(1, 2), keepdims=True), 1e-12)
        return _enlarge(torch.from_numpy(shares[numbers] / max(shares.max(), 1e-12)), look)
    find_maps = roll_out if has_class_token(model.vtn.backbone) else grad_cam
    maps = _enlarge(find_maps(model, look, numbers), look)
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    return maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-12)


def _enlarge(maps: torch.Tensor, look: Look) -> np.ndarray:
    """To the size of the pictures."""
    return nn.functional.interpolate(maps[:, None], size=look.pictures.shape[1:3], mode="bilinear")[:, 0].cpu().numpy()


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
    figure = Figure(figsize=(14, 5 + 0.14 * num_layers * num_heads), layout="constrained")
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


def plot_maps(look: Look, strip: np.ndarray, maps: np.ndarray, path: Path):
    """Draws frames above the same frames with their maps."""
    figure = Figure(figsize=(1.2 * len(strip), 2.8), layout="constrained")
    rows = figure.subplots(2, len(strip), squeeze=False)
    for axes, picture in zip(rows.flat, [*look.pictures[strip], *overlay(look.pictures[strip], maps)], strict=True):
        axes.imshow(picture)
        axes.axis("off")
    for axes, number in zip(rows[0], strip, strict=True):
        axes.set_title(f"{look.times[number]:.1f} s", fontsize=8)
    figure.savefig(path, dpi=90, format="png")


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
    write_frames(path, frames, max(1, round((len(frames) - 1) / duration)) if duration > 0 else 1)


def plot_timeline(model: VTNForVideoClassification, look: Look, path: Path):
    """Draws the five classes with the highest probability anywhere, over windows of a quarter of the video."""
    window = max(len(look.times) // 4, 1)
    segments = make_timeline(model, look.video, window=window, stride=max(window // 4, 1))
    scores = torch.stack([segment.scores for segment in segments]).cpu()
    middles = [(segment.first_frame + segment.last_frame) / 2 / (look.video.fps or 1) for segment in segments]
    figure = Figure(figsize=(12, 3), layout="constrained")
    axes = figure.subplots()
    for label in scores.max(dim=0).values.argsort(descending=True)[:5].tolist():
        axes.plot(middles, scores[:, label], marker=".", label=model.config.id2label[label])
    axes.set(xlabel="seconds" if look.video.fps else "frames", ylabel="probability", ylim=(0, 1))
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)  # a `$` in a name is a dollar
    figure.savefig(path, dpi=90)


def write_frames(path: Path, frames: np.ndarray, frame_rate: int):
    """Writes an mp4 file of frames (frames, height, width, 3), uint8, with even sides."""
    with av.open(path, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=frame_rate, options={"crf": "18"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
