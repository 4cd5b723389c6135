"""
A page in the browser: drop a video, see its classes, which class when, and what the model looked at.

    pip install -e '.[app]'
    python examples/app.py --model RUN
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib
import torch


matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402 - the backend comes first
from plot_attention import (  # noqa: E402
    NUM_STRIP_FRAMES,
    find_events,
    map_frames,
    plot_attention,
    plot_maps,
    write_overlay,
)

from vtn_hf import VideoDecodeError, VTNForVideoClassification, VTNVideoProcessor  # noqa: E402
from vtn_hf.inference.attention import Look, look_at  # noqa: E402
from vtn_hf.inference.whole_video import make_timeline  # noqa: E402


def plot_timeline(model: VTNForVideoClassification, look: Look, path: Path):
    """Draws the five classes with the highest probability anywhere, over windows of a quarter of the video."""
    window = max(len(look.times) // 4, 1)
    segments = make_timeline(model, look.video, window=window, stride=max(window // 4, 1))
    scores = torch.stack([segment.scores for segment in segments]).cpu()
    middles = [(segment.first_frame + segment.last_frame) / 2 / (look.video.fps or 1) for segment in segments]
    figure, axes = plt.subplots(figsize=(12, 3), layout="constrained")
    for label in scores.max(dim=0).values.argsort(descending=True)[:5].tolist():
        axes.plot(middles, scores[:, label], marker=".", label=model.config.id2label[label])
    axes.set(xlabel="seconds" if look.video.fps else "frames", ylabel="probability", ylim=(0, 1))
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)  # a `$` in a name is a dollar
    figure.savefig(path, dpi=90)
    plt.close(figure)


def analyse(
    model: VTNForVideoClassification, processor: VTNVideoProcessor, video: str
) -> tuple[dict[str, float], str, str, str, str]:
    """Probabilities by class, and the files of timeline, attention, maps and overlay, in a folder of their own."""
    folder = Path(tempfile.mkdtemp(prefix="vtn_app_"))
    look = look_at(model, processor, video)
    strip = look.choose_frames(NUM_STRIP_FRAMES)
    plot_timeline(model, look, folder / "timeline.png")
    plot_attention(look, folder / "attention.png", "the class token's attention", find_events(Path(video), look))
    plot_maps(look, strip, map_frames(model, look, strip), folder / "maps.png")
    write_overlay(model, look, folder / "overlay.mp4")
    classes = {model.config.id2label[label]: value for label, value in enumerate(look.probabilities.tolist())}
    files = (folder / name for name in ("timeline.png", "attention.png", "maps.png", "overlay.mp4"))
    return classes, *map(str, files)


def make_app(model: VTNForVideoClassification, processor: VTNVideoProcessor, name: str):
    """The page, a `gradio.Blocks`."""
    import gradio

    def show(video: str | None):
        if video is None:
            raise gradio.Error("Drop a video first.")
        try:
            return analyse(model, processor, video)
        except VideoDecodeError as error:
            raise gradio.Error(str(error)) from error

    with gradio.Blocks(title="Video Transformer Network") as app:
        gradio.Markdown(
            f"# Video Transformer Network\n`{name}`: {model.config.num_labels} classes, the whole video in one pass "
            f"(up to {processor.num_frames} frames)."
        )
        with gradio.Row():
            video = gradio.Video(label="Video", sources=["upload"], height=320)
            classes = gradio.Label(label="Classes", num_top_classes=5)
        button = gradio.Button("Classify", variant="primary")
        timeline = gradio.Image(label="Which class when")
        attention = gradio.Image(label="The class token's attention over the video")
        maps = gradio.Image(label="What counts within the frames")
        overlay = gradio.Video(label="The same as a video", autoplay=False)
        button.click(show, video, [classes, timeline, attention, maps, overlay], api_name="classify")
    return app


def main():
    """Serves the page until interrupted."""
    parser = argparse.ArgumentParser(description="A page in the browser around a VTN.")
    parser.add_argument("--model", required=True, help="a VTN: a directory or a repository on the Hub")
    parser.add_argument("--num_frames", type=int, help="frames of a video; default: as the processor says")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args()
    overrides = {} if options.num_frames is None else {"num_frames": options.num_frames}
    model = VTNForVideoClassification.from_pretrained(options.model).eval()
    processor = VTNVideoProcessor.from_pretrained(options.model, **overrides)
    make_app(model, processor, options.model).launch(server_port=options.port, allowed_paths=[tempfile.gettempdir()])


if __name__ == "__main__":
    main()
