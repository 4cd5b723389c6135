"""Collections of (empty) files for the tests: reading a collection opens none of them."""

import os
from pathlib import Path

from vtn_hf.data.collection import Collection


def make_files(root: Path, *names: str | bytes) -> Path:
    """Makes empty files below a folder, and returns the folder."""
    for name in names:
        path = Path(os.fsdecode(os.path.join(os.fsencode(root), os.fsencode(name))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def read_back(collection: Collection, split: str = "train") -> dict[str, str | list[str]]:
    """The rows of a split: name, and name or names of the class."""
    names = collection.class_names
    rows = collection.videos[split]
    if collection.is_multi_label:
        return {row["name"]: [names[label] for label in row["label"]] for row in rows}
    return {row["name"]: names[row["label"]] for row in rows}
