"""examples/extract_features.py, and training on what it leaves, run as a user runs them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from example_runs import EXAMPLES, ROOT, SETTINGS, as_flags, launch, make_launcher
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, ViTImageProcessor, pipeline
from video_files import write_shards

from drawn_videos.motion_clips import write_motion_clips
from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.feature_cache import CachedClips, read_shard_paths


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


def extract(
    clips: Path, backbone: Path, output_dir: Path, num_processes: int = 1, **settings
) -> subprocess.CompletedProcess:
    flags = as_flags(
        {
            "data_dir": clips,
            "backbone_name_or_path": backbone,
            "output_dir": output_dir,
            "num_frames": 8,
            "videos_per_shard": 4,
            "num_workers": 0,
            "use_cpu": "true",
            **settings,
        }
    )
    command = [*make_launcher(num_processes), str(EXAMPLES / "extract_features.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def features(clips: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output_dir = tmp_path_factory.mktemp("features") / "cache"
    result = extract(clips, backbone, output_dir)
    assert result.returncode == 0, result.stderr[-4000:]
    damaged = str(sorted(clips.glob("train/*/*.mp4"))[7])
    assert "29 videos are in" in result.stdout and f"Skipped {damaged}: " in result.stdout
    assert list(CachedClips(output_dir, "train").skipped) == [damaged]
    return output_dir


def test_it_goes_on_where_it_was_stopped_with_any_number_of_processes(
    clips: Path, backbone: Path, features: Path, tmp_path: Path
):
    shutil.copytree(features, tmp_path / "cache")
    missing = [tmp_path / "cache" / name for name in ("train/shard-00001.safetensors", "val/shard-00002.safetensors")]
    kept = tmp_path / "cache/train/shard-00000.safetensors"
    for path in missing:
        path.unlink()
    unchanged = kept.stat().st_mtime_ns
    result = extract(clips, backbone, tmp_path / "cache", num_processes=2)

    assert result.returncode == 0, result.stderr[-4000:]
    for line in ("train: 1 of 5 shards are to be computed", "val: 1 of 3 shards are to be computed"):
        assert line in result.stdout
    assert kept.stat().st_mtime_ns == unchanged
    for path in missing:
        first = features / path.parent.name / path.name
        assert read_shard_paths(path) == read_shard_paths(first)
        again, once = load_file(path), load_file(first)
        assert all(again[name].equal(once[name]) for name in once)


def test_shards_give_the_same_features(clips: Path, backbone: Path, features: Path, tmp_path: Path):
    result = extract(write_shards(clips, tmp_path / "shards"), backbone, tmp_path / "cache")
    assert result.returncode == 0, result.stderr[-4000:]
    assert "29 videos are in" in result.stdout
    for split in ("train", "val"):
        expected, found = CachedClips(features, split), CachedClips(tmp_path / "cache", split)
        assert len(found) == len(expected)
        by_sum = [sorted(clip["inputs_embeds"].sum().item() for clip in clips) for clips in (found, expected)]
        assert by_sum[0] == pytest.approx(by_sum[1])


def test_views_of_a_training_video(clips: Path, backbone: Path, features: Path, tmp_path: Path):
    """The first is the plain one; the others differ from it, and are the same in another run."""
    settings = {"num_views": 3, "flip_prob": 0.5, "crop_scale": [0.3, 0.6]}
    for name in ("once", "again"):
        result = extract(clips, backbone, tmp_path / name, **settings)
        assert result.returncode == 0, result.stderr[-4000:]
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


def test_views_need_an_augmentation(clips: Path, backbone: Path, tmp_path: Path):
    result = extract(clips, backbone, tmp_path / "cache", num_views=2)
    assert "num_views=2: more than one view needs an augmentation" in result.stderr


def test_it_refuses_to_mix_features(clips: Path, backbone: Path, features: Path, tmp_path: Path):
    shutil.copytree(backbone, tmp_path / "other")
    model = AutoModel.from_pretrained(backbone)
    torch.nn.init.zeros_(model.layernorm.weight)
    model.save_pretrained(tmp_path / "other")
    result = extract(clips, tmp_path / "other", features)
    assert result.returncode != 0
    assert f"{features} holds other features: backbone_name_or_path" in result.stderr


def test_the_model_trained_on_features_classifies_videos(clips: Path, features: Path, tmp_path: Path):
    settings = {
        name: value
        for name, value in SETTINGS.items()
        if name not in ("resize_to", "crop_size", "clip_num_frames", "eval_num_frames")
    }
    heads = '{"num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 16}'
    settings |= {"model_config": heads, "features": features, "output_dir": tmp_path / "model", "max_steps": 6}
    launch(*as_flags(settings | {"clip_num_frames": 4}))

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


def test_missing_and_damaged_videos_count_in_the_coverage(clips: Path, backbone: Path, tmp_path: Path):
    (tmp_path / "csv").mkdir()
    for split in ("train", "val"):
        paths = [*sorted((clips / split).glob("*/*.mp4"))[7:], "gone.mp4"]
        lines = (f"{path} {number % 2}\n" for number, path in enumerate(paths))
        (tmp_path / f"csv/{split}.csv").write_text("".join(lines))
    result = extract(tmp_path / "csv", backbone, tmp_path / "cache")
    assert result.returncode == 0 and "Missing gone.mp4" in result.stdout
    flags = {"features": tmp_path / "cache", "output_dir": tmp_path / "model", "max_steps": 1, "use_cpu": "true"}
    launch(*as_flags(flags | {"model_config": '{"num_attention_heads": 4}'}))

    coverage = json.loads((tmp_path / "model/coverage.json").read_text())
    assert coverage["train"]["missing"] == coverage["val"]["missing"] == ["gone.mp4"]
    # Thirteen training videos, one of them damaged; three to evaluate.
    assert (coverage["train"]["annotated"], coverage["train"]["used"]) == (14, 12)
    metrics = json.loads((tmp_path / "model/eval_results.json").read_text())
    assert metrics["eval_coverage"] == coverage["val"]["coverage"] == 3 / 4


def test_another_backbone_is_an_error(backbone: Path, features: Path, tmp_path: Path):
    shutil.copytree(backbone, tmp_path / "other")
    model = AutoModel.from_pretrained(backbone)
    torch.nn.init.zeros_(model.layernorm.weight)
    model.save_pretrained(tmp_path / "other")
    flags = {"features": features, "backbone_name_or_path": tmp_path / "other", "output_dir": tmp_path / "model"}
    with pytest.raises(AssertionError, match="computed by .* with weights"):
        launch(*as_flags(flags | {"model_config": '{"num_attention_heads": 4}'}))


def test_settings_that_the_features_fix_are_an_error(features: Path, tmp_path: Path):
    with pytest.raises(
        AssertionError, match="--crop_size changes pixels or labels, but the features are computed already"
    ):
        launch(*as_flags({"features": features, "output_dir": tmp_path / "model", "crop_size": 16}))
