"""The cache of frame features: what is written is read back, and nothing else is taken for it."""

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vtn_hf import VTNVideoProcessor
from vtn_hf.data.clips import collate_videos
from vtn_hf.data.feature_cache import (
    CachedClips,
    CachedVideo,
    CacheIndex,
    FeatureCacheInfo,
    hash_weights,
    read_shard,
    write_shard,
)
from vtn_hf.data.time_augmentation import TimeAugmentation


INFO = FeatureCacheInfo(
    backbone_name_or_path="some/model",
    backbone_sha256="0" * 64,
    processor={"num_frames": 6, "size": {"shortest_edge": 8}},
    num_views=2,
)


def make_video(number: int, num_views: int = 2, num_frames: int = 6) -> dict:
    clips = [
        (torch.full((num_frames, 4), number + view / 4), 10 * torch.arange(num_frames)) for view in range(num_views)
    ]
    return {"path": f"{number}.mp4", "label": number % 2, "fps": 25.0, "clips": clips}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Five videos, the fourth of which could not be read, each 6 frames of 4 equal numbers: video + view / 4."""
    INFO.save(tmp_path)
    videos = [make_video(number) for number in range(5)]
    videos[3] = {"path": "3.mp4", "label": 1, "error": "cut off"}
    save_index(tmp_path, {"train": write_shards(tmp_path, "train", videos), "val": []})
    return tmp_path


def write_shards(root: Path, split: str, videos: list[dict]) -> list[CachedVideo]:
    """Two videos each."""
    stored = []
    for number in range(0, len(videos), 2):
        path = root / split / f"shard-{number // 2:05d}.safetensors"
        write_shard(path, videos[number : number + 2])
        stored += read_shard(path)
    return stored


def save_index(root: Path, splits: dict[str, list[CachedVideo]]):
    CacheIndex(["a", "b"], splits).save(root)


def test_each_video_is_read_back_in_the_order_of_the_collection(cache: Path):
    clips = CachedClips(cache, "train")

    assert len(clips) == 4
    assert clips.paths == ["0.mp4", "1.mp4", "2.mp4", "4.mp4"]
    assert clips.skipped == {"3.mp4": "cut off"}
    for index, number in enumerate([0, 1, 2, 4]):
        example = clips[index]
        assert example["inputs_embeds"].dtype == torch.float32
        assert example["inputs_embeds"].equal(torch.full((6, 4), number + index % 2 / 4))
        assert example["position_ids"].tolist() == [0, 10, 20, 30, 40, 50]
        assert example["labels"] == number % 2
    assert set(collate_videos([clips[0], clips[1]])) == {"inputs_embeds", "position_ids", "labels"}


def test_the_epochs_take_turns_at_the_views_also_in_a_worker(cache: Path):
    clips = CachedClips(cache, "train")
    loader = torch.utils.data.DataLoader(clips, batch_size=4, num_workers=1, persistent_workers=True)
    seen = []
    for epoch in range(3):
        clips.set_epoch(epoch)
        seen.append([features[0, 0].item() for features in next(iter(loader))["inputs_embeds"]])
    assert seen == [[0, 1.25, 2, 4.25], [0.25, 1, 2.25, 4], [0, 1.25, 2, 4.25]]


def test_clips_are_drawn_from_seed_epoch_and_index(cache: Path):
    def draw(seed: int = 0, epoch: int = 0, **settings) -> list[list[int]]:
        clips = CachedClips(cache, "train", seed=seed, **settings)
        clips.set_epoch(epoch)
        return [clips[index]["position_ids"].tolist() for index in range(4)]

    # 0.8 s are 20 of the video's 51 frames; three cached frames at most lie in them, and the first counts as 0.
    first = draw(num_frames=3, clip_duration_sec=0.8)
    assert first == draw(num_frames=3, clip_duration_sec=0.8)
    assert all(clip[0] == 0 and clip[-1] <= 20 and len(clip) == 3 for clip in first)
    starts = [draw(seed, epoch, num_frames=1, clip_duration_sec=0.4) for seed in range(2) for epoch in range(2)]
    assert starts == [[[0]] * 4] * 4
    assert draw(num_frames=6) == [[0, 10, 20, 30, 40, 50]] * 4


def test_clips_of_any_length_in_between(cache: Path):
    clips, lengths = CachedClips(cache, "train", num_frames=(2, 4)), set()
    for epoch in range(20):
        clips.set_epoch(epoch)
        for index in range(len(clips)):
            positions = clips[index]["position_ids"]
            assert len(positions.unique()) == len(positions) == len(clips[index]["inputs_embeds"])
            lengths.add(len(positions))
    assert lengths == {2, 3, 4}
    with pytest.raises(ValueError, match="two that rise"):
        CachedClips(cache, "train", num_frames=(4, 2))


def test_draws_change_with_seed_and_epoch(cache: Path):
    path = cache / "train/shard-00000.safetensors"
    ramp = (torch.arange(200.0)[:, None].expand(-1, 4), torch.arange(200))
    write_shard(path, [make_video(number) | {"clips": [ramp, ramp]} for number in range(2)])
    draws = set()
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        clips = CachedClips(cache, "train", num_frames=2, clip_duration_sec=1.0, seed=seed)
        clips.set_epoch(epoch)
        draws.add(tuple(clips[index]["inputs_embeds"][0, 0].item() for index in range(2)))
    assert len(draws) == 3


def test_the_data_set_goes_to_another_process(cache: Path):
    clips = pickle.loads(pickle.dumps(CachedClips(cache, "train")))
    assert clips[2]["inputs_embeds"][0, 0] == 2


def test_many_labels_per_video(tmp_path: Path):
    videos = [make_video(number) | {"label": label} for number, label in enumerate([[0, 1], [], [1]])]
    save_index(tmp_path, {"train": write_shards(tmp_path, "train", videos)})
    assert CachedClips(tmp_path, "train").labels.tolist() == [[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]


def test_what_is_not_there_or_not_complete_is_an_error(cache: Path):
    with pytest.raises(ValueError, match="features of train, val, not of 'test'"):
        CachedClips(cache, "test")
    bad = {"path": "5.mp4", "label": 0, "error": "cut off"}
    save_index(cache, {"train": CacheIndex.load(cache).splits["train"], "val": write_shards(cache, "val", [bad])})
    with pytest.raises(ValueError, match="None of the 1 videos of val in .* could be read"):
        CachedClips(cache, "val")
    (cache / "train/shard-00001.safetensors").unlink()
    with pytest.raises(ValueError, match="1 of 3 shards of train in .* are missing .train/shard-00001.safetensors"):
        CachedClips(cache, "train")
    (cache / "videos.json").unlink()
    with pytest.raises(ValueError, match="videos.json is missing: the extraction is not finished"):
        CachedClips(cache, "train")
    with pytest.raises(FileNotFoundError, match="holds no cached features"):
        FeatureCacheInfo.load(cache / "train")


def test_other_settings_are_refused(cache: Path):
    processor = {"num_frames": 8, "size": {"shortest_edge": 9}, "new": 1}
    with pytest.raises(ValueError, match="holds other features: ") as caught:
        replace(INFO, dtype="float32", processor=processor).save(cache)
    for difference in (
        "dtype 'float16', not 'float32'",
        "processor.num_frames 6, not 8",
        "size.shortest_edge 8, not 9",
    ):
        assert difference in str(caught.value)
    # The same weights at another place, and a field that another version of transformers has.
    replace(INFO, backbone_name_or_path="elsewhere", processor=INFO.processor | {"new": 1}).save(cache)
    (cache / "feature_cache.json").write_text('{"format_version": 1}')
    with pytest.raises(ValueError, match="has the format 1, this version of vtn_hf reads 2; extract"):
        FeatureCacheInfo.load(cache)


def test_features_that_do_not_fit_are_an_error_and_leave_no_file(tmp_path: Path):
    path = tmp_path / "train/shard-00000.safetensors"
    video = make_video(0) | {"clips": [(torch.tensor([[7e4]]), torch.tensor([0]))]}
    with pytest.raises(ValueError, match="features of 0.mp4 reach 70000, which float16 cannot hold"):
        write_shard(path, [video])
    assert not list(tmp_path.rglob("*.*"))
    write_shard(path, [video], dtype="float32")
    assert read_shard(path) == [CachedVideo("0.mp4", 0, shard="train/shard-00000.safetensors", num_clips=1)]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="shard-00000.safetensors is no shard of features, or damaged"):
        read_shard(path)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_features_that_are_no_numbers_are_an_error_in_every_dtype(tmp_path: Path, dtype: str, value: float):
    video = make_video(0) | {"clips": [(torch.tensor([[1.0, value]]), torch.tensor([0]))]}
    with pytest.raises(ValueError, match="Of 0.mp4 the backbone gives features that are infinite or not numbers"):
        write_shard(tmp_path / "train/shard-00000.safetensors", [video], dtype)


def make_model(frame_grid: int | None = None):
    """What the check reads of a model."""
    return SimpleNamespace(backbone=torch.nn.Linear(2, 2), config=SimpleNamespace(frame_grid=frame_grid))


def test_the_check_tells_backbones_apart():
    model = make_model()
    info = replace(INFO, backbone_sha256=hash_weights(model.backbone))
    model.backbone.double().float()
    info.check(model)
    with torch.no_grad():
        weight = model.backbone.weight
        weight[0, 0] = torch.from_numpy(np.nextafter(weight[0, :1].numpy(), 9))[0]
    with pytest.raises(ValueError, match="computed by some/model with weights"):
        info.check(model)
    with pytest.raises(ValueError, match="The features have frame_grid=None, but the model frame_grid=2"):
        info.check(make_model(2))


@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 4)], ids=["vector", "grid"])
@pytest.mark.parametrize("dtype, tolerance", [("float32", 0.0), ("float16", 1e-3), ("int8", 1 / 254)])
def test_a_grid_and_every_dtype_are_read_back(tmp_path: Path, dtype: str, tolerance: float, shape: tuple[int, ...]):
    """Every vector has a scale of its own in int8."""
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    features *= torch.logspace(-3, 3, 6).view(-1, *[1] * (len(shape) - 1))
    features[0] = 0.0
    path = tmp_path / "train/shard-00000.safetensors"
    videos = [make_video(number, 1) | {"clips": [(features + number, torch.arange(6))]} for number in range(2)]
    write_shard(path, videos, dtype)
    save_index(tmp_path, {"train": read_shard(path)})
    for number, example in enumerate(CachedClips(tmp_path, "train")):
        expected = features + number
        assert example["inputs_embeds"].shape == shape and example["inputs_embeds"].dtype == torch.float32
        difference = (example["inputs_embeds"] - expected).abs()
        assert (difference <= tolerance * 1.01 * expected.abs().amax(dim=-1, keepdim=True)).all()


def test_processor_survives_the_json(tmp_path: Path):
    import json

    processor = VTNVideoProcessor(num_frames=7, size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16})
    replace(INFO, processor=json.loads(processor.to_json_string())).save(tmp_path)
    loaded = VTNVideoProcessor.from_dict(FeatureCacheInfo.load(tmp_path).processor)
    assert loaded.to_json_string() == processor.to_json_string()


def test_a_view_can_be_asked_for(cache: Path):
    clips = CachedClips(cache, "train", view=1)

    for epoch in range(2):
        clips.set_epoch(epoch)
        assert [clips[index]["inputs_embeds"][0, 0].item() for index in range(4)] == [0.25, 1.25, 2.25, 4.25]


def test_time_is_augmented_and_each_epoch_draws_anew(cache: Path):
    clips = CachedClips(cache, "train", time_augmentation=TimeAugmentation(drop_prob=0.5), seed=1)

    draws = []
    for epoch in range(2):
        clips.set_epoch(epoch)
        examples = [clips[index] for index in range(4)]
        assert all(len(each["inputs_embeds"]) == len(each["position_ids"]) for each in examples)
        draws.append([each["position_ids"].tolist() for each in examples])
        assert draws[epoch] == [clips[index]["position_ids"].tolist() for index in range(4)]
    assert draws[0] != draws[1]


def test_features_are_left_out_in_all_frames_alike(cache: Path):
    clips = CachedClips(cache, "train", view=0, feature_drop_prob=0.5)

    seen = set()
    for epoch in range(20):
        clips.set_epoch(epoch)
        features = clips[1]["inputs_embeds"]
        assert features.equal(features[:1].expand(6, 4)) and features.dtype == torch.float32
        seen |= set(features[0].tolist())
    assert seen == {0.0, 2.0}


def test_a_batch_is_mixed_with_labels_as_shares(cache: Path):
    clips = CachedClips(cache, "train", view=0, mixup_alpha=1.0)

    batch = collate_videos(clips.__getitems__([0, 1, 2, 3]))

    assert batch["labels"].shape == (4, 2) and batch["labels"].sum(dim=1).allclose(torch.ones(4))
    assert batch["inputs_embeds"].shape == (4, 6, 4)
