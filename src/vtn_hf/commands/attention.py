"""
Draws what a Video Transformer Network looked at in a video.

    vtn attention --model RUN VIDEO.mp4 --output_dir PICTURES

Prints the classes and writes attention.png: a strip of frames above the class token's attention over the video,
averaged, as in the paper's figure, and for each layer and head; maps.png: what counts within those frames; and
overlay.mp4: all frames with their maps, and the attention below them. It needs matplotlib.
"""

import argparse
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

from .. import VTNForVideoClassification, VTNVideoProcessor
from ..inference.attention import Look, look_at
from ..outputs import check_outputs, writing
from .arguments import add_shared, choose_device, load_model, load_processor
from .console import CommandParser, command


OUTPUTS = ("attention.png", "maps.png", "overlay.mp4")


def draw(
    model: VTNForVideoClassification,
    processor: VTNVideoProcessor,
    video: Path,
    output_dir: Path,
    find_events: Callable[[Look], tuple[range, ...]] = lambda look: (),
):
    """
    Writes the three pictures of a video and prints its classes.

    Args:
        model (`VTNForVideoClassification`): In eval mode.
        processor (`VTNVideoProcessor`): Its.
        video (`Path`): What to look at.
        output_dir (`Path`): Folder of the pictures.
        find_events (`Callable`, *optional*): Gives spans of the looked at frames, to be marked.
    """
    from ..inference.attention_figures import NUM_STRIP_FRAMES, map_frames, plot_attention, plot_maps, write_overlay

    look = look_at(model, processor, video)
    best = look.probabilities.topk(min(5, len(look.probabilities)))
    for probability, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"{probability:.3f}  {model.config.id2label[label]}")
    title = f"{video.name}: {model.config.id2label[best.indices[0].item()]} ({best.values[0]:.2f})"
    strip = look.choose_frames(NUM_STRIP_FRAMES)
    attention, maps, overlay = (output_dir / name for name in OUTPUTS)
    with writing(attention) as path:
        plot_attention(look, path, title, find_events(look))
    with writing(maps) as path:
        plot_maps(look, strip, map_frames(model, look, strip), path)
    with writing(overlay) as path:
        write_overlay(model, look, path)


def make_parser() -> CommandParser:
    parser = CommandParser("attention", __doc__)
    parser.add_argument("video", type=Path, help="a file")
    add_shared(parser, "model", required=True)
    add_shared(parser, "output_dir", required=True)
    add_shared(parser, "overwrite")
    add_shared(parser, "num_frames")
    add_shared(parser, "fps")
    add_shared(parser, "device")
    return parser


def check_inputs(options: argparse.Namespace):
    """Finds out what can be found out before the work begins."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("The pictures need matplotlib: pip install 'vtn-hf[train]'")
    if not options.video.is_file():
        raise FileNotFoundError(f"{options.video}: no such video.")
    outputs = [options.output_dir / name for name in OUTPUTS]
    check_outputs(outputs, [options.video, *Path(options.model).glob("*")], options.overwrite)


@command("attention")
def main(argv: list[str] | None = None):
    """Draws as the arguments say."""
    options = make_parser().parse_args(argv)
    check_inputs(options)
    model = load_model(options.model).to(choose_device(options.device)).eval()
    processor = load_processor(options.model, options.num_frames, options.fps)
    draw(model, processor, options.video, options.output_dir)


if __name__ == "__main__":
    sys.exit(main())
