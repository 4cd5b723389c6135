"""Reads the annotations of ActivityNet, and of the many collections that have taken over its format."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from .class_names import clean_name, escape_bytes, read_text
from .listing import Listing, Row, name_segment, name_some
from .splits import find_split
from .video_lists import VideoFinder, read_segment


def find_annotations(root: Path) -> list[Path]:
    """The files `ROOT/*.json` in the format of ActivityNet."""
    return [path for path in sorted(root.glob("*.json")) if b'"database"' in path.read_bytes()]


def list_activitynet(root: Path) -> Listing:
    """
    Lists the annotated segments of `ROOT/*.json` in the format of ActivityNet (THUMOS, HACS, FineAction, …):

        {"database": {"ID": {"subset": "training", "annotations": [{"segment": [6.1, 19.9], "label": "Archery"}]}}}

    The videos are anywhere below `ROOT`, as `ID.mp4` or `v_ID.mp4`, with whichever ending. Where one segment has
    several classes, a video may have several labels. Videos without annotations are left out.

    Raises:
        ValueError: If a file cannot be understood.
    """
    listing = Listing(root, {}, None, "labels")
    labels: dict[tuple, list[str]] = defaultdict(list)
    bare = []
    for file in find_annotations(root):
        for name, entry in _read_database(file).items():
            split = _find_subset(entry, f"{file}: {name}")
            annotations = entry.get("annotations") or []
            bare += [] if annotations else [name]
            for annotation in annotations:
                try:
                    segment, label = _read_annotation(annotation, f"{file.name}: {name}")
                    labels[split, file.name, name, segment].append(label)
                except ValueError as error:
                    listing.bad[split][f"{file.name}: {name}: {annotation}"] = str(error)
    if bare:
        listing.notes.append(f"{len(bare):,} video(s) have no annotations, and are left out: {name_some(bare)}.")
    if not labels:
        bad = [reason for reasons in listing.bad.values() for reason in reasons.values()]
        raise ValueError(f"{root} has no annotated segments. {' '.join([*listing.notes, *bad[:1]])}")
    find, is_multi_label = VideoFinder(root), any(len({*each}) > 1 for each in labels.values())
    for (split, file_name, name, segment), found in labels.items():
        classes: str | list = [*dict.fromkeys(found)] if is_multi_label else found[0]
        row = Row(find(name), classes, escape_bytes(name), f"{file_name}: {name}", None, *segment)
        row.where = name_segment(row.where, *segment)
        listing.rows.setdefault(split, []).append(row)
    listing.found = sorted({label for found in labels.values() for label in found})
    return listing


def _read_database(file: Path) -> dict[str, dict[str, Any]]:
    try:
        database = json.loads(read_text(file))["database"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no list in the format of ActivityNet: {error!r}.") from error
    if not isinstance(database, dict) or not all(isinstance(entry, dict) for entry in database.values()):
        raise ValueError(f"{file}: `database` must be a dictionary of dictionaries, one per video.")
    return database


def _find_subset(entry: dict[str, Any], where: str) -> str:
    subset = entry.get("subset")
    if not isinstance(subset, str):
        raise ValueError(f"{where} has the subset {subset!r}, which is no name.")
    return find_split(subset) or escape_bytes(subset)


def _read_annotation(annotation: Any, where: str) -> tuple[tuple[float | None, float | None], str]:
    try:
        (start, end), label = annotation["segment"], clean_name(annotation["label"])
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{where}: expected a segment of two numbers and a label, got {annotation!r}") from error
    return read_segment(start, end, where), label
