"""Videos that are missing or damaged are left out, counted and listed."""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value, Video
from torch.utils.data import DataLoader
from video_files import write_video

from vtn_hf import VideoDecodeError, VTNVideoProcessor
from vtn_hf.data.clips import ClipTransform, collate_videos
from vtn_hf.data.coverage import NO_LABEL, SkippedVideos, report_coverage


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Five good videos, one cut short, one that is text, one that is empty."""
    root = tmp_path_factory.mktemp("videos")
    frames = np.random.default_rng(0).integers(0, 256, (8, 12, 16, 3), dtype=np.uint8)
    good = [write_video(root / f"good{number}.mp4", frames) for number in range(5)]
    (root / "cut.mp4").write_bytes(good[0].read_bytes()[:-2000])
    (root / "text.mp4").write_text("This is no video.")
    (root / "empty.mp4").touch()
    return root


GOOD = [f"good{number}.mp4" for number in range(5)]
BAD = ["cut.mp4", "empty.mp4", "text.mp4"]


@pytest.fixture
def skipped(tmp_path):
    return SkippedVideos(tmp_path / "new folder/skipped.jsonl")


def make_dataset(root, names):
    features = Features({"video": Video(decode=False), "label": ClassLabel(names=["a", "b"]), "name": Value("string")})
    columns = {"video": [str(root / name) for name in names], "label": [1] * len(names), "name": names}
    return Dataset.from_dict(columns, features=features)


def make_transform(**kwargs):
    return ClipTransform(VTNVideoProcessor(num_frames=4, size=8, crop_size=8), **kwargs)


def test_training_leaves_out_what_is_damaged(files, skipped):
    names = [GOOD[0], "cut.mp4", GOOD[1], "text.mp4"]
    dataset = make_dataset(files, names).with_transform(make_transform(num_frames=4, skipped=skipped))
    (batch,) = DataLoader(dataset, batch_size=4, collate_fn=collate_videos)
    assert batch["pixel_values"].shape == (2, 4, 3, 8, 8)
    assert batch["labels"].tolist() == [1, 1]
    assert [line["video"] for line in skipped.summarize()] == ["cut.mp4", "text.mp4"]
    assert "cut.mp4" in skipped.summarize()[0]["reason"]


@pytest.mark.parametrize("num_labels", [None, 3])
def test_a_batch_of_which_nothing_is_left(files, skipped, num_labels):
    transform = make_transform(num_frames=4, skipped=skipped, num_labels=num_labels, num_repeats=2)
    (batch,) = DataLoader(make_dataset(files, BAD).with_transform(transform), batch_size=3, collate_fn=collate_videos)
    assert batch["pixel_values"].shape == (1, 4, 3, 8, 8)
    assert batch["labels"].tolist() == ([NO_LABEL] if num_labels is None else [[NO_LABEL] * 3])
    assert [line["video"] for line in skipped.summarize()] == BAD


def test_evaluation_keeps_a_place_for_what_is_damaged(files, skipped):
    names = [GOOD[0], "text.mp4", GOOD[1]]
    dataset = make_dataset(files, names).with_transform(make_transform(skipped=skipped))
    (batch,) = DataLoader(dataset, batch_size=3, collate_fn=collate_videos)
    assert batch["labels"].tolist() == [1, NO_LABEL, 1]
    assert batch["attention_mask"].sum(dim=1).tolist() == [4, 1, 4]
    assert [line["video"] for line in skipped.summarize()] == ["text.mp4"]


def test_without_a_list_damage_is_an_error(files):
    dataset = make_dataset(files, BAD[:1]).with_transform(make_transform(num_frames=4))
    with pytest.raises(VideoDecodeError, match="cut.mp4"):
        dataset[0]


def test_what_a_damaged_video_does_to_the_others(files, skipped):
    """Nothing: their draws are those of a collection without it."""
    transform = make_transform(num_frames=4, clip_duration_sec=0.5, skipped=skipped)
    mixed = make_dataset(files, [*BAD, *GOOD]).with_transform(transform)[:]["pixel_values"]
    clean = make_dataset(files, GOOD).with_transform(transform)[:]["pixel_values"]
    assert len(mixed) == len(clean) == 5
    assert all(map(torch.equal, mixed, clean))


def test_names_that_are_not_utf8(skipped):
    skipped.add(os.fsdecode(b"\xff.mp4"), os.fsdecode(b"/videos/\xff.mp4: cut short"))
    assert skipped.summarize() == [{"video": r"\xff.mp4", "reason": r"/videos/\xff.mp4: cut short", "times": 1}]


def _add_many(path, worker):
    skipped = SkippedVideos(path)
    for number in range(200):
        skipped.add(f"video {number}", f"reason of {worker} " + "x" * 500)


def test_list_of_several_processes(skipped):
    with ProcessPoolExecutor(4) as pool:
        list(pool.map(partial(_add_many, skipped.path), range(4)))
    lines = skipped.path.read_text().splitlines()
    assert len(lines) == 800
    assert all(json.loads(line)["video"] for line in lines)
    summary = skipped.summarize()
    assert len(summary) == 200
    assert all(line["times"] == 4 for line in summary)


def test_report(skipped):
    skipped.add("b", "cut short")
    skipped.add("b", "again")
    skipped.add("a", "empty")
    report = report_coverage(17, ["c", "d", "e"], skipped.summarize())
    assert report == {
        "annotated": 20,
        "used": 15,
        "coverage": 0.75,
        "missing": ["c", "d", "e"],
        "damaged": [
            {"video": "a", "reason": "empty", "times": 1},
            {"video": "b", "reason": "cut short", "times": 2},
        ],
    }
    assert report_coverage(None, [], skipped.summarize())["coverage"] is None
    skipped.clear()
    assert skipped.summarize() == []
