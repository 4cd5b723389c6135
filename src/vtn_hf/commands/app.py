"""
A page in the browser: drop a video, see its classes, which class when, and what the model looked at.

    pip install 'vtn-hf[app]'
    vtn app --model RUN

What visitors upload and what is drawn of it lies in a temporary folder of the page's own, in which nothing stays much
longer than an hour and which goes when the page is closed. Videos are analysed one after the other.
"""

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

from .. import VTNForVideoClassification, VTNVideoProcessor
from ..inference.attention import look_at
from .arguments import add_shared, choose_device, load_model, load_processor
from .console import CommandParser, command


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
        # They need matplotlib.
        from ..inference.attention_figures import (
            NUM_STRIP_FRAMES,
            map_frames,
            plot_attention,
            plot_maps,
            plot_timeline,
            write_overlay,
        )

        look = look_at(self._model, self._processor, video)
        strip = look.choose_frames(NUM_STRIP_FRAMES)
        plot_timeline(self._model, look, timeline)
        plot_attention(look, attention, "the class token's attention")
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


def make_parser() -> CommandParser:
    parser = CommandParser("app", __doc__)
    add_shared(parser, "model", required=True)
    add_shared(parser, "num_frames")
    add_shared(parser, "fps")
    add_shared(parser, "device")
    parser.add_argument("--port", type=int, default=7860, help="where the page is: http://127.0.0.1:PORT")
    return parser


@command("app")
def main(argv: list[str] | None = None):
    """Serves the page until interrupted."""
    options = make_parser().parse_args(argv)
    for package in ("gradio", "matplotlib"):
        if importlib.util.find_spec(package) is None:
            raise ValueError(f"The page needs {package}: pip install 'vtn-hf[app]'")
    model = load_model(options.model).to(choose_device(options.device)).eval()
    processor = load_processor(options.model, options.num_frames, options.fps)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # to end as by Ctrl-C, leaving no folder
    page = make_app(model, processor, options.model)
    page.launch(server_port=options.port, ssr_mode=False, run_history=False)


if __name__ == "__main__":
    sys.exit(main())
