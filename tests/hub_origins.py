"""
Run by test_hub.py, with vtn_hf imported where the process has it: loads checkpoints whose code says where it comes
from, and prints what runs, as JSON, the different origins of each checkpoint's parts; or why one is refused.

    python hub_origins.py CHECKPOINT … CHECKPOINT=OTHER, where OTHER's files first replace CHECKPOINT's …
"""

import importlib.util
import json
import shutil
import sys

import conftest  # noqa: F401 - lets torchvision be imported
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
    pipeline,
)
from transformers.utils import is_torchvision_available


def find_origins(checkpoint: str) -> list[str | None]:
    classes = [AutoModelForVideoClassification, AutoModel, AutoImageProcessor]
    classes += [AutoVideoProcessor] * is_torchvision_available()
    parts = [auto_class.from_pretrained(checkpoint, trust_remote_code=True) for auto_class in classes]
    classify = pipeline("video-classification", model=checkpoint, trust_remote_code=True)
    parts += [classify.model, classify.model.vtn, classify.image_processor, classify.video_processor]
    return [getattr(part, "origin", None) for part in parts]


def main(*checkpoints: str):
    if importlib.util.find_spec("vtn_hf") is not None:
        importlib.import_module("vtn_hf")
    origins = []
    for checkpoint in checkpoints:
        checkpoint, _, other = checkpoint.partition("=")
        if other:
            shutil.copytree(other, checkpoint, dirs_exist_ok=True)
        try:
            origins.append(sorted(set(find_origins(checkpoint)), key=str))
        except ValueError as error:
            origins.append(str(error))
    print(json.dumps(origins))


if __name__ == "__main__":
    main(*sys.argv[1:])
