"""What is to be computed when a collection has changed; the features are numbers, the videos any files."""

import os
import shutil
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from video_files import write_shard as write_tar

from vtn_hf.data.collection import read_collection
from vtn_hf.data.extraction_plan import ExtractionPlan, clear_cache
from vtn_hf.data.feature_cache import CachedClips, FeatureCacheInfo, write_shard
from vtn_hf.data.listing import hash_video


@pytest.fixture
def root(tmp_path):
    for name in ("train/a/1", "train/a/2", "train/b/1", "val/a/1"):
        write(tmp_path / "videos", name, name)
    return tmp_path / "videos"


def write(root: Path, name: str, content: str):
    path = root / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def extract(root: Path, cache: Path, num_views: int = 1, errors: dict | None = None, **settings) -> list[str]:
    """Computes what a plan says; returns what that was."""
    plan = ExtractionPlan(cache, read_collection(root, **settings), num_views)
    computed = []
    for split in plan.to_do:
        for path, part in plan.list_shards(split, 2):
            videos = []
            for each in part:
                computed.append(each.video.name)
                entry = asdict(each.video) | {"sha256": hash_video(each.video.path)}
                if each.video.name in (errors or {}):
                    videos.append(entry | {"error": "no good", "final": errors[each.video.name]})
                    continue
                number = float(int(hash_video(each.video.path)[:3], 16))
                clips = [(torch.full((2, 3), number), torch.arange(2)) for _ in range(each.num_clips)]
                videos.append(entry | {"fps": 1.0, "clips": clips})
            write_shard(path, videos, "float32")
    extract.notes = plan.notes
    plan.finish()
    return computed


def check(root: Path, cache: Path, **settings):
    """The cache has the features of what is in the collection now, in its order."""
    collection = read_collection(root, **settings)
    for split, videos in collection.videos.items():
        clips = CachedClips(cache, split)
        assert clips.paths == [video["path"] for video in videos["video"]]
        assert clips.labels.tolist() == videos["label"][:]
        for path, clip in zip(clips.paths, clips, strict=True):
            assert clip["inputs_embeds"].flatten().tolist() == [float(int(hash_video(path)[:3], 16))] * 6


def test_what_is_new_is_added(root, tmp_path):
    cache = tmp_path / "cache"
    assert len(extract(root, cache)) == 4
    check(root, cache)
    shard = cache / "train/shard-00000.safetensors"
    before = shard.stat().st_mtime_ns
    assert extract(root, cache) == []
    assert extract.notes == [
        "train: 3 of 3 videos are done already.",
        "val: 1 of 1 videos are done already.",
    ]
    # A class that changes the labels of the others.
    write(root, "train/Aa/1", "new")
    write(root, "val/b/7", "new, too")
    assert extract(root, cache) == ["train/Aa/1.mp4", "val/b/7.mp4"]
    check(root, cache)
    assert shard.stat().st_mtime_ns == before


def test_what_has_changed_or_gone(root, tmp_path):
    cache = tmp_path / "cache"
    extract(root, cache)
    write(root, "train/a/2", "other content")
    (root / "train/b/1.mp4").unlink()
    shutil.move(root / "val/a/1.mp4", root / "val/a/2.mp4")
    write(root, "train/b/3", "b")
    assert sorted(extract(root, cache)) == ["train/a/2.mp4", "train/b/3.mp4", "val/a/2.mp4"]
    assert extract.notes == [
        "train: 1 of 3 videos are done already. 1 have changed since: train/a/2.mp4.",
        "val: 0 of 1 videos are done already.",
        "2 videos have left the collection, and are dropped: train/b/1.mp4, val/a/1.mp4.",
    ]
    check(root, cache)
    # What is needed no more is deleted: the shard of val, and of train none, as all have something left.
    assert len(list(cache.glob("val/*"))) == 1


def test_a_copy_with_other_times_elsewhere(root, tmp_path):
    cache = tmp_path / "cache"
    extract(root, cache)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(root, elsewhere, copy_function=shutil.copyfile)
    os.utime(elsewhere / "train/a/1.mp4", ns=(1, 1))
    assert extract(elsewhere, cache) == []
    check(elsewhere, cache)
    # Of the same size, and other content.
    (elsewhere / "train/a/1.mp4").write_text("train/a/0")
    assert extract(elsewhere, cache) == ["train/a/1.mp4"]
    check(elsewhere, cache)


def test_an_extraction_that_was_stopped(root, tmp_path):
    cache = tmp_path / "cache"
    extract(root, cache)
    (cache / "videos.json").unlink()
    (cache / "train/shard-00001.safetensors").unlink()
    (cache / "train/shard-00000.safetensors").write_bytes(b"damaged")
    assert len(extract(root, cache)) == 3
    assert "shard-00000.safetensors is no shard of features, or damaged" in extract.notes[0]
    check(root, cache)
    assert {path.name for path in (cache / "train").iterdir()} == {
        "shard-00001.safetensors",
        "shard-00002.safetensors",
    }


def test_errors_are_tried_again_where_that_may_help(root, tmp_path):
    cache = tmp_path / "cache"
    extract(root, cache, errors={"train/a/1.mp4": True, "train/a/2.mp4": False})
    clips = CachedClips(cache, "train")
    assert [Path(path).name for path in clips.skipped] == ["1.mp4", "2.mp4"] and len(clips) == 1
    assert extract(root, cache) == ["train/a/2.mp4"]
    assert len(CachedClips(cache, "train")) == 2
    write(root, "train/a/1", "mended")
    assert extract(root, cache) == ["train/a/1.mp4"]
    check(root, cache)


def test_videos_that_change_their_split(root, tmp_path):
    shutil.rmtree(root / "val")
    write(root, "train/b/2", "b2")
    cache = tmp_path / "cache"
    assert len(extract(root, cache, val_share=0)) == 4
    assert extract(root, cache, val_share=0.3) == []
    check(root, cache, val_share=0.3)
    assert "val" in read_collection(root, val_share=0.3).videos
    # More views of what is trained on, which val does not need.
    assert (
        len(extract(root, cache, num_views=2, val_share=0.3))
        == read_collection(root, val_share=0.3).num_videos["train"]
    )
    assert extract(root, cache, num_views=2, val_share=0.3) == []
    check(root, cache, val_share=0.3)


def test_videos_of_the_same_name_in_several_tar_files(tmp_path):
    root, cache = tmp_path / "tars", tmp_path / "cache"
    for number in range(2):
        write_tar(root / f"train-{number}.tar", {"0.mp4": bytes([number]), "0.cls": b"0"})
    assert len(extract(root, cache, class_names=["a"])) == 2
    assert extract(root, cache, class_names=["a"]) == []
    check(root, cache, class_names=["a"])
    write_tar(root / "train-1.tar", {"0.mp4": b"1", "0.cls": b"0", "1.mp4": b"2", "1.cls": b"0"})
    assert len(extract(root, cache, class_names=["a"])) == 2
    check(root, cache, class_names=["a"])


def test_files_that_go_while_it_looks(root, tmp_path):
    collection = read_collection(root)
    (root / "train/a/1.mp4").unlink()
    plan = ExtractionPlan(tmp_path / "cache", collection, 1)
    assert len(plan.to_do["train"]) == 3
    with pytest.raises(ValueError, match="the features of train/a/1.mp4, train/a/2.mp4, train/b/1.mp4 are not there"):
        plan.finish()


def test_clear(root, tmp_path):
    cache = tmp_path / "cache"
    extract(root, cache)
    FeatureCacheInfo("a", "", {}).save(cache)
    (cache / "train/notes.txt").write_text("mine")
    clear_cache(cache)
    assert [path.name for path in cache.rglob("*.*")] == ["notes.txt"]
