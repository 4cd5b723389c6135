"""
A page in the browser: drop a video, see its classes, which class when, and what the model looked at.

    pip install -e '.[app]'
    python examples/app.py --model RUN

What visitors upload and what is drawn of it lies in a temporary folder of the page's own, in which nothing stays much
longer than an hour and which goes when the page is closed. Videos are analysed one after the other.
"""

import argparse
import atexit
import importlib.util
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
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

from vtn_hf import VTNForVideoClassification, VTNVideoProcessor  # noqa: E402
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


class Analyst:
    """
    Analyses videos, one at a time: drawing and looking into a model are not made for several threads.

    Args:
        model: In eval mode.
        processor: Its.
        folder: For what is drawn.
    """

    def __init__(self, model: VTNForVideoClassification, processor: VTNVideoProcessor, folder: Path):
        self._model, self._processor, self._folder = model, processor, folder
        self._lock = threading.Lock()

    def __call__(self, video: str) -> tuple[dict[str, float], str, str, str, str]:
        """
        Returns:
            Probabilities by class, and the files of timeline, attention, maps and overlay.

        Raises:
            ValueError: If the video cannot be decoded or looked into; says nothing of where it is.
        """
        token = secrets.token_hex(8)
        names = ("timeline.png", "attention.png", "maps.png", "overlay.mp4")
        files = [self._folder / f"{token}_{name}" for name in names]
        try:
            with self._lock:
                return self._analyse(video, *files), *map(str, files)
        except Exception as error:
            for file in files:
                file.unlink(missing_ok=True)
            if isinstance(error, ValueError):
                raise ValueError(str(error).replace(video, Path(video).name)) from None
            raise

    def _analyse(self, video: str, timeline: Path, attention: Path, maps: Path, overlay: Path) -> dict[str, float]:
        look = look_at(self._model, self._processor, video)
        strip = look.choose_frames(NUM_STRIP_FRAMES)
        plot_timeline(self._model, look, timeline)
        plot_attention(look, attention, "the class token's attention", find_events(Path(video), look))
        plot_maps(look, strip, map_frames(self._model, look, strip), maps)
        write_overlay(self._model, look, overlay)
        return {self._model.config.id2label[label]: value for label, value in enumerate(look.probabilities.tolist())}


def make_app(model: VTNForVideoClassification, processor: VTNVideoProcessor, name: str):
    """The page, a `gradio.Blocks`, and a folder for what comes and goes, which is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="vtn_app_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = folder  # where gradio keeps uploads, and the only folder that it serves
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio

    analyse = Analyst(model, processor, Path(folder))

    def show(video: str | None):
        if video is None:
            raise gradio.Error("Drop a video first.")
        try:
            return analyse(video)
        except ValueError as error:
            raise gradio.Error(str(error)) from error

    # Every ten minutes what is older than an hour is deleted, and everything when the page is closed.
    with gradio.Blocks(title="Video Transformer Network", delete_cache=(600, 3600)) as app:
        gradio.Markdown(
            f"# Video Transformer Network\n`{Path(name).name if Path(name).exists() else name}`: "
            f"{model.config.num_labels} classes, the whole video in one pass (up to {processor.num_frames} frames)."
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


def main(argv: list[str] | None = None) -> int:
    """Serves the page until interrupted."""
    parser = argparse.ArgumentParser("app.py", description="A page in the browser around a VTN.")
    parser.add_argument("--model", required=True, help="a VTN: a directory or a repository on the Hub")
    parser.add_argument("--num_frames", type=int, help="frames of a video; default: as the processor says")
    parser.add_argument("--port", type=int, default=7860)
    options = parser.parse_args(argv)
    if importlib.util.find_spec("gradio") is None:
        parser.error("the page needs gradio: pip install -e '.[app]'")
    overrides = {} if options.num_frames is None else {"num_frames": options.num_frames}
    try:
        model = VTNForVideoClassification.from_pretrained(options.model).eval()
        processor = VTNVideoProcessor.from_pretrained(options.model, **overrides)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # to end as by Ctrl-C, leaving no folder
    page = make_app(model, processor, options.model)
    page.launch(server_port=options.port, ssr_mode=False, run_history=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
