"""`vtn extract`, and training on what it leaves, run as a user runs them."""

import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from example_runs import SETTINGS, as_flags, make_launcher, run, run_process, take_stock
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, ViTImageProcessor, pipeline
from video_files import write_shards

from drawn_videos.motion_clips import write_motion_clips
from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.commands import extract as extraction
from vtn_hf.commands import training_data
from vtn_hf.data.feature_cache import CachedClips, read_shard
from vtn_hf.data.time_augmentation import TimeAugmentation
from vtn_hf.results import one_run


# Settings that are no concern of training on features.
OF_PIXELS = ("resize_to", "crop_size", "clip_num_frames", "num_frames")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT with the settings of its pictures, as on the Hub."""
    path = tmp_path_factory.mktemp("backbone")
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model("vit", image_size=32, patch_size=16, **sizes)).save_pretrained(path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, one of which is damaged."""
    root = write_motion_clips(tmp_path_factory.mktemp("clips") / "motion", num_train=20, num_val=10, num_workers=1)
    path = sorted(root.glob("train/*/*.mp4"))[7]
    path.write_bytes(path.read_bytes()[:500])
    return root


def extract(clips: Path, backbone: Path, output_dir: Path, **settings) -> int:
    """The exit status of an extraction in this process."""
    return run("extract", *make_flags(clips, backbone, output_dir, **settings))


def make_flags(clips: Path, backbone: Path, output_dir: Path, **settings) -> list[str]:
    parts = {"data_dir": clips, "backbone_name_or_path": backbone, "output_dir": output_dir}
    small = {"num_frames": 8, "videos_per_shard": 4, "num_workers": 0, "device": "cpu"}
    return as_flags(parts | small | settings)


def list_videos(cache: Path) -> dict[str, list[str]]:
    """The names of the videos by the shard that they are in."""
    shards = sorted(cache.glob("*/*.safetensors"))
    return {f"{path.parent.name}/{path.name}": [video.name for video in read_shard(path)] for path in shards}


@pytest.fixture(scope="module")
def features(clips: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("features") / "cache"
    assert extract(clips, backbone, output_dir) == 0
    return output_dir


def test_what_is_said(clips: Path, backbone: Path, features: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    damaged = str(sorted(clips.glob("train/*/*.mp4"))[7])
    before = take_stock(clips)
    for done in (0, 20):
        assert extract(clips, backbone, tmp_path / "cache") == 0
        printed = capsys.readouterr().out
        assert f"train: {done} of 20 videos are done already" in printed
        assert re.search(r"all videos +20 +10\n", printed)
        assert "29 videos are in" in printed and f"Skipped {damaged}: " in printed
    assert list(CachedClips(features, "train").skipped) == [damaged]
    assert take_stock(clips) == before


@pytest.mark.parametrize("fields", [{}, {"frame_pooling": "attention"}], ids=["grid", "pooling"])
def test_a_grid_from_videos_to_a_model_and_back(
    clips: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture, fields: dict
):
    cache, again = tmp_path / "cache", tmp_path / "again"
    assert extract(clips, backbone, cache, frame_grid=2, feature_dtype="int8") == 0
    assert re.search(r"int8 changes features of up to \S+ by at most \S+\.", capsys.readouterr().out)
    assert CachedClips(cache, "train")[0]["inputs_embeds"].shape == (8, 5, 24)
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16} | fields
    ours = {"features": cache, "output_dir": tmp_path / "run", "model_config": json.dumps(small)}
    settings = {name: value for name, value in SETTINGS.items() if name not in OF_PIXELS} | ours
    assert run("train", *as_flags(settings)) == 0
    model = VTNForVideoClassification.from_pretrained(tmp_path / "run")
    assert (model.config.frame_grid, model.config.frame_pooling) == (2, fields.get("frame_pooling"))

    # The grid of a VTN is its own, and so are its logits.
    capsys.readouterr()
    assert extract(clips, tmp_path / "run", again) == 0
    assert re.search(r"float16 changes logits of up to \S+ by at most \S+\.", capsys.readouterr().out)
    torch.testing.assert_close(
        CachedClips(again, "val")[0]["inputs_embeds"], CachedClips(cache, "val")[0]["inputs_embeds"], atol=0.05, rtol=0
    )
    assert extract(clips, tmp_path / "run", tmp_path / "other", frame_grid=3) == 2
    assert "frame_grid=3" in capsys.readouterr().err


def test_it_goes_on_where_it_was_stopped_with_any_number_of_processes(
    clips: Path, backbone: Path, features: Path, tmp_path: Path
):
    cache = tmp_path / "cache"
    shutil.copytree(features, cache)
    missing = [cache / name for name in ("train/shard-00001.safetensors", "val/shard-00002.safetensors")]
    kept = cache / "train/shard-00000.safetensors"
    for path in [*missing, cache / "videos.json"]:
        path.unlink()
    unchanged = kept.stat().st_mtime_ns
    flags = make_flags(clips, backbone, cache, num_workers=1)
    result = run_process("extract", *flags, launcher=make_launcher(2))
    assert result.returncode == 0, result.stderr[-4000:]
    printed = result.stdout

    # One of the four videos of the first shard to come is damaged: it is not tried again.
    for line in ("train: 16 of 20 videos are done already", "val: 8 of 10 videos are done already"):
        assert line in printed
    assert kept.stat().st_mtime_ns == unchanged
    assert list_videos(cache) == list_videos(features)
    for path in missing:
        again, once = load_file(path), load_file(features / path.parent.name / path.name)
        assert all(again[name].equal(once[name]) for name in once)


def test_collections_that_grow_and_change(clips: Path, backbone: Path, features: Path, tmp_path: Path, capsys):
    cache, videos = tmp_path / "cache", tmp_path / "videos"
    shutil.copytree(features, cache)
    shutil.copytree(clips, videos)
    first, second, *_ = sorted(videos.glob("train/*/*.mp4"))
    for folder in ("a new class", first.parent.name):
        (videos / "train" / folder).mkdir(exist_ok=True)
        shutil.copy(second, videos / "train" / folder / "new.mp4")
    shutil.copy(second, first)
    shards = {path: path.stat().st_mtime_ns for path in cache.glob("*/*")}
    assert extract(videos, backbone, cache) == 0
    printed = capsys.readouterr().out
    assert f"train: 19 of 22 videos are done already. 1 have changed since: {first.relative_to(videos)}" in printed
    assert {path: path.stat().st_mtime_ns for path in shards} == shards
    clips_now = CachedClips(cache, "train")
    assert clips_now.labels[0] == 0 and clips_now.paths[0] == str(videos / "train/a new class/new.mp4")
    by_path = {path: clip["inputs_embeds"] for path, clip in zip(clips_now.paths, clips_now, strict=True)}
    assert by_path[str(first)].equal(by_path[str(second)])
    for path in (first, videos / "train/a new class/new.mp4"):
        path.unlink()
    (videos / "train/a new class").rmdir()
    assert extract(videos, backbone, cache) == 0
    assert "2 videos have left the collection, and are dropped" in capsys.readouterr().out
    assert len(CachedClips(cache, "train")) == 19


def test_a_part_is_held_out_for_val(clips: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    shutil.copytree(clips / "train", tmp_path / "videos/train")
    assert extract(tmp_path / "videos", backbone, tmp_path / "cache") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("vtn extract: error: ") and "has no val split" in message
    assert "--val_share 0.2" in message
    assert not (tmp_path / "cache").exists()
    assert extract(tmp_path / "videos", backbone, tmp_path / "cache", val_share=0.2) == 0
    splits = [CachedClips(tmp_path / "cache", split) for split in ("train", "val")]
    assert sum(map(len, splits)) == 19 and len(splits[1]) >= 2
    assert not set(splits[0].paths) & set(splits[1].paths)


def test_two_at_once_and_outputs_among_inputs(clips: Path, backbone: Path, tmp_path: Path, capsys):
    (tmp_path / "cache").mkdir()
    with one_run(tmp_path / "cache"):
        assert extract(clips, backbone, tmp_path / "cache") == 2
    assert "Another process is writing" in capsys.readouterr().err
    assert extract(clips, backbone, clips / "train") == 2
    assert "inputs are never written to" in capsys.readouterr().err


def test_shards_give_the_same_features(clips: Path, backbone: Path, features: Path, tmp_path: Path, capsys):
    assert extract(write_shards(clips, tmp_path / "shards"), backbone, tmp_path / "cache") == 0
    assert "29 videos are in" in capsys.readouterr().out
    for split in ("train", "val"):
        expected, found = CachedClips(features, split), CachedClips(tmp_path / "cache", split)
        assert len(found) == len(expected)
        by_sum = [sorted(clip["inputs_embeds"].sum().item() for clip in clips) for clips in (found, expected)]
        assert by_sum[0] == pytest.approx(by_sum[1])


class CrashingVideo(extraction.WholeVideo):
    """Ends or stops its process, for some names."""

    def __call__(self, wanted: extraction.Wanted) -> dict:
        if wanted.video.name.endswith("crash.mp4"):
            os.abort()
        if wanted.video.name.endswith("hang.mp4"):
            time.sleep(1000)
        return super().__call__(wanted)


def test_videos_that_crash_or_hang_cost_themselves_only(
    clips: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    source = sorted(clips.glob("train/*/*.mp4"))[0]
    for name in ("train/a/1", "train/a/crash", "train/a/hang", "train/b/2", "val/a/3", "val/b/4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / f"videos/{name}.mp4")
    monkeypatch.setattr(extraction, "WholeVideo", CrashingVideo)
    settings = {"num_workers": 1, "time_limit_sec": 5}
    assert extract(tmp_path / "videos", backbone, tmp_path / "cache", **settings) == 0
    printed = capsys.readouterr().out
    assert "4 videos are in" in printed
    assert "crash.mp4: its process ended with exit code -6" in printed
    assert "hang.mp4: it takes longer than 5 s" in printed
    # They are tried again.
    monkeypatch.undo()
    assert extract(tmp_path / "videos", backbone, tmp_path / "cache") == 0
    assert "6 videos are in" in capsys.readouterr().out


def test_views_of_a_training_video(clips: Path, backbone: Path, features: Path, tmp_path: Path):
    """The first is the plain one; the others differ from it, and are the same in another run."""
    settings = {"num_views": 3, "flip_prob": 0.5, "crop_scale": [0.3, 0.6]}
    for name in ("once", "again"):
        assert extract(clips, backbone, tmp_path / name, **settings) == 0
    plain, once, again = (CachedClips(root, "train") for root in (features, tmp_path / "once", tmp_path / "again"))
    views = []
    for epoch in range(3):
        once.set_epoch(epoch)
        again.set_epoch(epoch)
        assert once[0]["inputs_embeds"].equal(again[0]["inputs_embeds"])
        assert once[0]["position_ids"].equal(plain[0]["position_ids"])
        views.append(once[0]["inputs_embeds"])
    assert views[0].equal(plain[0]["inputs_embeds"])
    assert len({view.sum().item() for view in views}) == 3
    assert CachedClips(tmp_path / "once", "val")[0]["inputs_embeds"].equal(
        CachedClips(features, "val")[0]["inputs_embeds"]
    )


def test_views_need_an_augmentation(clips: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    assert extract(clips, backbone, tmp_path / "cache", num_views=2) == 2
    assert "num_views=2: more than one view needs an augmentation" in capsys.readouterr().err


def test_it_refuses_to_mix_features(clips: Path, backbone: Path, features: Path, tmp_path: Path, capsys):
    shutil.copytree(features, tmp_path / "cache")
    shutil.copytree(backbone, tmp_path / "other")
    model = AutoModel.from_pretrained(backbone)
    torch.nn.init.zeros_(model.layernorm.weight)
    model.save_pretrained(tmp_path / "other")
    before = take_stock(tmp_path / "cache/train")
    assert extract(clips, tmp_path / "other", tmp_path / "cache", num_frames=4) == 2
    message = capsys.readouterr().err
    assert "cache holds other features: " in message and "backbone_sha256" in message
    assert "processor.num_frames 8, not 4" in message and "--overwrite" in message
    assert take_stock(tmp_path / "cache/train") == before
    assert extract(clips, tmp_path / "other", tmp_path / "cache", num_frames=4, overwrite="true") == 0
    assert len(CachedClips(tmp_path / "cache", "train")[0]["position_ids"]) == 4


def test_the_model_trained_on_features_classifies_videos(clips: Path, features: Path, tmp_path: Path):
    settings = {name: value for name, value in SETTINGS.items() if name not in OF_PIXELS}
    heads = '{"num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 16}'
    settings |= {"model_config": heads, "features": features, "output_dir": tmp_path / "model", "max_steps": 6}
    assert run("train", *as_flags(settings | {"clip_num_frames": 4})) == 0

    model = VTNForVideoClassification.from_pretrained(tmp_path / "model")
    processor = VTNVideoProcessor.from_pretrained(tmp_path / "model")
    assert model.config.num_frames == processor.num_frames == 8
    cached = CachedClips(features, "val")
    classify = pipeline("video-classification", model=model, video_processor=processor)
    for index, path in enumerate(cached.paths):
        with torch.no_grad():
            from_features = model(**{name: cached[index][name][None] for name in ("inputs_embeds", "position_ids")})
            from_video = model(**processor(path, return_tensors="pt"))
        # The features are kept as float16: 11 bits.
        torch.testing.assert_close(from_video.logits, from_features.logits, rtol=0, atol=2e-3)
        scores = {prediction["label"]: prediction["score"] for prediction in classify(path, top_k=10)}
        expected = from_video.logits.softmax(-1)[0]
        assert [scores[label] for label in model.config.id2label.values()] == pytest.approx(expected.tolist())
    metrics = json.loads((tmp_path / "model/eval_results.json").read_text())
    assert metrics["eval_top1"] * 10 == pytest.approx(round(metrics["eval_top1"] * 10))


def test_missing_and_damaged_videos_count_in_the_coverage(clips: Path, backbone: Path, tmp_path: Path, capsys):
    (tmp_path / "csv").mkdir()
    for split in ("train", "val"):
        paths = [*sorted((clips / split).glob("*/*.mp4"))[7:], "gone.mp4"]
        lines = (f"{path} {number % 2}\n" for number, path in enumerate(paths))
        (tmp_path / f"csv/{split}.csv").write_text("".join(lines))
    assert extract(tmp_path / "csv", backbone, tmp_path / "cache") == 0
    assert "Missing gone.mp4" in capsys.readouterr().out
    flags = {"features": tmp_path / "cache", "output_dir": tmp_path / "model", "max_steps": 1, "device": "cpu"}
    assert run("train", *as_flags(flags | {"model_config": '{"num_attention_heads": 4}'})) == 0

    coverage = json.loads((tmp_path / "model/coverage.json").read_text())
    assert coverage["train"]["missing"] == coverage["val"]["missing"] == ["gone.mp4"]
    # Thirteen training videos, one of them damaged; three to evaluate.
    assert (coverage["train"]["annotated"], coverage["train"]["used"]) == (14, 12)
    metrics = json.loads((tmp_path / "model/eval_results.json").read_text())
    assert metrics["eval_coverage"] == coverage["val"]["coverage"] == 3 / 4


def test_another_backbone_is_an_error(backbone: Path, features: Path, tmp_path: Path, capsys):
    shutil.copytree(backbone, tmp_path / "other")
    model = AutoModel.from_pretrained(backbone)
    torch.nn.init.zeros_(model.layernorm.weight)
    model.save_pretrained(tmp_path / "other")
    flags = {"features": features, "backbone_name_or_path": tmp_path / "other", "output_dir": tmp_path / "model"}
    assert run("train", *as_flags(flags | {"model_config": '{"num_attention_heads": 4}'})) == 2
    assert re.search("computed by .* with weights", capsys.readouterr().err)


@pytest.mark.parametrize(("name", "value"), [("crop_size", 16), ("val_share", 0.2)])
def test_settings_that_the_features_fix_are_an_error(features: Path, tmp_path: Path, capsys, name, value):
    assert run("train", *as_flags({"features": features, "output_dir": tmp_path / "model", name: value})) == 2
    message = f"--{name} changes pixels or labels, but the features are computed already"
    assert message in capsys.readouterr().err


def test_features_are_changed_in_training(features: Path, tmp_path: Path, monkeypatch):
    made = []

    class Noted(CachedClips):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(training_data, "CachedClips", Noted)
    small = {name: value for name, value in SETTINGS.items() if name not in OF_PIXELS}
    flags = small | {"features": features, "output_dir": tmp_path / "model", "max_steps": 2}
    flags |= {"min_time_share": 0.7, "frame_drop_prob": 0.3, "speed_range": [0.8, 1.25], "feature_drop_prob": 0.2}
    flags |= {"mixup_alpha": 0.8, "model_config": '{"num_attention_heads": 4}'}

    assert run("train", *as_flags(flags)) == 0

    train, val = made
    assert train.time_augmentation == TimeAugmentation(0.7, 0.3, (0.8, 1.25))
    assert (train.feature_drop_prob, train.mixup_alpha) == (0.2, 0.8)
    assert (val.time_augmentation, val.feature_drop_prob, val.mixup_alpha) == (None, 0.0, 0.0)


def test_what_changes_features_needs_them(clips: Path, tmp_path: Path, capsys):
    flags = {"data_dir": clips, "output_dir": tmp_path / "model", "frame_drop_prob": 0.3}
    assert run("train", *as_flags(flags)) == 2
    assert "--frame_drop_prob changes cached features" in capsys.readouterr().err


def test_features_without_val(clips: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    shutil.copytree(clips / "train", tmp_path / "videos/train")
    assert extract(tmp_path / "videos", backbone, tmp_path / "cache", val_share=0) == 0
    flags = {"features": tmp_path / "cache", "output_dir": tmp_path / "model", "eval_strategy": "epoch"}
    assert run("train", *as_flags(flags)) == 2
    assert "has no val split to evaluate on: extract with --val_share 0.2" in capsys.readouterr().err
