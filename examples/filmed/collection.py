"""Filmed collections: which videos belong together, and folds that do not separate them."""

import re
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold


def find_groups(root: Path, names: list[str]) -> list[str]:
    """
    What each video must not be separated from.

    Where `root/videos.txt` lists recordings, lines with a URL each followed by lines `VIDEO: TIMES`, that is the
    recording, and one group of all videos that it does not list. Elsewhere it is what a file name has before its last
    underscore, as the speaker in `SPEAKER_REPETITION.mp4`.
    """
    recordings = root / "videos.txt"
    if recordings.is_file():
        recording_of = _read_recordings(recordings)
        return [recording_of.get(Path(name).stem, "") for name in names]
    stems = [Path(name).stem for name in names]
    if lonely := [name for name, stem in zip(names, stems, strict=True) if "_" not in stem]:
        raise ValueError(f"{root} has no videos.txt, and {lonely[0]} no underscore after the name of a group.")
    return [stem.rpartition("_")[0] for stem in stems]


def _read_recordings(path: Path) -> dict[str, str]:
    recording_of, recording = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("http"):
            recording = line.strip()
        elif match := re.match(r"(\w+):", line):
            recording_of[match[1]] = recording
    return recording_of


def make_folds(groups: list[str], labels: np.ndarray, num_folds: int = 5) -> list[np.ndarray]:
    """
    Indices of the videos of each fold, no group in two of them. Where all groups show the same classes equally often,
    fold 0 has the first one by name and every fifth from there; elsewhere classes are as even as groups allow.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), labels.max() + 1), dtype=int)
    np.add.at(counts, (group_of, labels), 1)
    if (counts == counts[0]).all():
        return [np.flatnonzero(group_of % num_folds == fold) for fold in range(num_folds)]
    splitter = StratifiedGroupKFold(num_folds)
    return [test for _, test in splitter.split(np.zeros(len(labels)), labels, groups)]
