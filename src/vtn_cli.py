"""
The command `vtn NAME …`, which runs `vtn_hf.commands.NAME`.

It lies beside the package and not in it: whatever imports the package waits for torch, and `vtn --help` should not.
"""

import difflib
import importlib
import sys
from importlib.metadata import PackageNotFoundError, version


COMMANDS = {
    "new": "from a folder of videos to a working classifier",
    "scan": "check every video of a folder: which are damaged, and why",
    "split": "cut a collection into train, val and test, by group and with equal shares of the classes",
    "prepare": "transcode videos once, so that random clips of them decode fast",
    "extract": "compute the frame features of a collection once, to train on them in minutes",
    "train": "train or fine-tune a VTN",
    "evaluate": "accuracy, calibration and speed on a collection, and a report to look at",
    "classify": "classify files and folders of any length, with a timeline",
    "stream": "classify a camera while it runs",
    "attention": "draw what a model looked at in a video",
    "export": "export a model to ONNX, and compare the two",
    "convert": "convert checkpoints of the original VTN, and back",
    "app": "a page in the browser: drop a video, see its classes",
}


def describe() -> str:
    """What `vtn --help` prints."""
    lines = [f"  {name:<10} {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vtn COMMAND [OPTIONS]",
            "",
            "Video Transformer Networks: train them, and classify videos with them.",
            "",
            *lines,
            "",
            "`vtn COMMAND --help` lists its options. On several devices:",
            "`accelerate launch -m vtn_hf.commands.COMMAND …` for extract, train, evaluate and classify.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit status."""
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(describe())
        return 0
    if name == "--version":
        try:
            print(version("vtn_hf"))
        except PackageNotFoundError:
            print("not installed, run from its sources")
        return 0
    if name not in COMMANDS:
        similar = difflib.get_close_matches(name, COMMANDS, n=1)
        guess = f"; did you mean {similar[0]}?" if similar else "."
        print(f"vtn: error: there is no command {name!r}{guess} `vtn --help` lists them.", file=sys.stderr)
        return 2
    return importlib.import_module(f"vtn_hf.commands.{name}").main(arguments)


if __name__ == "__main__":
    sys.exit(main())
