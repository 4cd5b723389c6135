"""Each frame of the clips here is one shade of gray that tells its number, so pixels show which frames were taken."""

import multiprocessing
import os
import resource
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value, Video
from torch.utils.data import DataLoader
from video_files import write_video

from vtn_hf import VideoDecodeError, VTNVideoProcessor, video_processing_vtn
from vtn_hf.data.augmentation import ClipAugmentation, ClipMixing
from vtn_hf.data.clip_sampling import sample_clip
from vtn_hf.data.clips import ClipTransform, collate_videos
from vtn_hf.data.coverage import SkippedVideos
from vtn_hf.video_decoding_vtn import decode_video


SHADE = 4  # steps from one frame to the next
NUM_FRAMES = 60
FPS = 10


def draw_frames(num_frames=NUM_FRAMES):
    shades = SHADE * np.arange(num_frames, dtype=np.uint8)
    return np.ascontiguousarray(np.broadcast_to(shades[:, None, None, None], (num_frames, 12, 16, 3)))


def frame_numbers(pixel_values):
    """The numbers of frames (..., 3, height, width) of which each is uniform."""
    first = pixel_values[..., :1, :1, :1]
    assert torch.equal(pixel_values, first.expand_as(pixel_values))
    return (first[..., 0, 0, 0] / SHADE).tolist()


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """Sixty frames, ten per second."""
    return str(write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", draw_frames(), FPS))


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory):
    return str(write_video(tmp_path_factory.mktemp("clips") / "short.mp4", draw_frames(5), FPS))


@pytest.fixture(scope="session")
def processor():
    return VTNVideoProcessor(num_frames=6, size=8, crop_size=8, do_rescale=False, do_normalize=False)


def make_dataset(*paths):
    features = Features(
        {"video": Video(decode=False), "label": ClassLabel(names=["a", "b", "c"]), "name": Value("string")}
    )
    numbers = range(len(paths))
    columns = {"video": paths, "label": [n % 3 for n in numbers], "name": [f"video {n}" for n in numbers]}
    return Dataset.from_dict(columns, features=features)


def make_rows(*paths):
    """As `make_dataset(*paths)` gives them to a transform."""
    videos = [{"path": path, "bytes": None} for path in paths]
    return {"video": videos, "label": [0] * len(paths), "name": [f"video {n}" for n in range(len(paths))]}


def test_evaluation_takes_the_whole_video(processor, clip, short_clip):
    rows = {"video": [{"path": clip, "bytes": None}, {"path": short_clip, "bytes": None}], "label": [2, 1]}
    inputs = ClipTransform(processor)(rows)
    assert list(inputs) == ["pixel_values", "position_ids", "labels"]
    assert inputs["labels"] == [2, 1]
    assert [ids.tolist() for ids in inputs["position_ids"]] == [[0, 11, 23, 35, 47, 59], [0, 1, 2, 3, 4]]
    assert [frame_numbers(video) for video in inputs["pixel_values"]] == [[0, 11, 23, 35, 47, 59], [0, 1, 2, 3, 4]]
    for path, pixel_values in zip((clip, short_clip), inputs["pixel_values"], strict=True):
        torch.testing.assert_close(pixel_values, processor(path, return_tensors="pt").pixel_values[0], rtol=0, atol=0)


def test_bytes(processor, clip):
    rows = {"video": [{"path": None, "bytes": Path(clip).read_bytes()}], "label": [0]}
    assert ClipTransform(processor)(rows)["position_ids"][0].tolist() == [0, 11, 23, 35, 47, 59]
    inputs = ClipTransform(processor, num_frames=4, clip_duration_sec=0.4)(rows)
    assert inputs["position_ids"][0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("num_frames", "clip_duration_sec", "span"),
    [(4, 0.4, 4), (8, 3.2, 32), (16, 1.0, 10), (1, 2.0, 20), (60, None, 60)],
)
def test_training_takes_a_random_clip(processor, clip, num_frames, clip_duration_sec, span):
    inputs = ClipTransform(processor, num_frames, clip_duration_sec)(make_rows(*[clip] * 30))
    starts = set()
    for pixel_values, position_ids in zip(inputs["pixel_values"], inputs["position_ids"], strict=True):
        numbers = frame_numbers(pixel_values)
        assert pixel_values.shape == (num_frames, 3, 8, 8)
        assert position_ids.dtype == torch.int64
        # Positions count from the start of the clip.
        assert position_ids.tolist() == [number - numbers[0] for number in numbers]
        assert numbers == sorted(numbers)
        if num_frames > 1:
            assert span - 2 <= numbers[-1] - numbers[0] <= span - 1
        starts.add(numbers[0])
    if span == NUM_FRAMES:
        assert starts == {0}
    else:
        assert len(starts) > 8
        # From anywhere in the video: near its start and near the last place for a clip of that length.
        assert min(starts) < 0.2 * (NUM_FRAMES - span)
        assert max(starts) > 0.8 * (NUM_FRAMES - span) - 1


def test_training_on_a_short_video_repeats_frames(processor, short_clip):
    rows = {"video": [{"path": short_clip, "bytes": None}], "label": [0]}
    inputs = ClipTransform(processor, num_frames=10)(rows)
    assert frame_numbers(inputs["pixel_values"][0]) == [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]
    inputs = ClipTransform(processor, num_frames=5, clip_duration_sec=0.9)(rows)
    assert frame_numbers(inputs["pixel_values"][0]) == [0, 2, 4, 4, 4]
    assert inputs["position_ids"][0].tolist() == [0, 2, 4, 4, 4]


def test_clips_of_any_length_in_between(processor, clip, short_clip):
    transform, lengths = ClipTransform(processor, num_frames=(4, 16)), []
    for epoch in range(40):
        transform.set_epoch(epoch)
        examples = transform(make_rows(clip, short_clip))
        lengths.append([len(positions) for positions in examples["position_ids"]])
        for frames, positions in zip(examples["pixel_values"], examples["position_ids"], strict=True):
            assert frame_numbers(frames) == positions.tolist()
            assert len(positions.unique()) == len(positions) and positions[0] == 0
        assert examples["position_ids"][0][-1] == NUM_FRAMES - 1  # spread over the whole video
    lengths = np.array(lengths)
    assert set(lengths[:, 0]) <= set(range(4, 17)) and len(set(lengths[:, 0])) > 5
    assert 0.25 < (lengths[:, 0] < 8).mean() < 0.75  # as many short ones as long ones
    assert set(lengths[:, 1]) == {4, 5}  # all frames of a video with fewer, none twice
    transform.set_epoch(3)
    again = transform(make_rows(clip, short_clip))
    assert [len(positions) for positions in again["position_ids"]] == lengths[3].tolist()


def test_clips_that_are_mixed_or_repeated_are_of_one_length(processor, clip):
    mixing = ClipMixing(mixup_alpha=0.8)
    transform = ClipTransform(processor, num_frames=(2, 20), num_labels=3, mixing=mixing, num_repeats=2)
    lengths = set()
    for epoch in range(6):
        transform.set_epoch(epoch)
        [length] = {len(positions) for positions in transform(make_rows(clip, clip))["position_ids"]}
        lengths.add(length)
    assert len(lengths) > 1


@pytest.mark.parametrize("num_frames", [0, (0, 4), (5, 4)])
def test_lengths_that_cannot_be(processor, num_frames):
    with pytest.raises(ValueError, match="number above 0, or two that rise"):
        ClipTransform(processor, num_frames)


def test_draws_depend_on_seed_epoch_and_name(processor, clip):
    def draw(rows, seed=0, epoch=0):
        transform = ClipTransform(processor, num_frames=4, clip_duration_sec=1.0, seed=seed)
        transform.set_epoch(epoch)
        return [frame_numbers(video) for video in transform(rows)["pixel_values"]]

    rows = make_rows(*[clip] * 8)
    first = draw(rows)
    assert len({tuple(numbers) for numbers in first}) > 4
    assert draw(rows, seed=1) != first
    assert draw(rows, epoch=1) != first
    # Neither the global generators nor the order of the videos matter.
    torch.manual_seed(1)
    np.random.seed(1)
    assert draw({name: values[::-1] for name, values in rows.items()}) == first[::-1]
    # Without a name it is the path, or the bytes, that tells videos apart.
    path_only = {name: values for name, values in rows.items() if name != "name"}
    assert len({tuple(numbers) for numbers in draw(path_only)}) == 1
    content = {"video": [{"path": None, "bytes": Path(clip).read_bytes()}], "label": [0]}
    assert draw(content) == draw(content)


def test_copies_of_a_data_set_are_in_the_same_epoch(processor, clip):
    transform = ClipTransform(processor, num_frames=4, clip_duration_sec=1.0)
    dataset = make_dataset(*[clip] * 8).with_transform(transform)
    later = dataset.select(range(4))
    first = [frame_numbers(example["pixel_values"]) for example in later]
    transform.set_epoch(1)
    assert [frame_numbers(example["pixel_values"]) for example in later] != first


def test_repeated_augmentation_reads_a_video_once(processor, clip, short_clip, monkeypatch):
    calls = []
    decode = video_processing_vtn.decode_video
    monkeypatch.setattr(
        video_processing_vtn, "decode_video", lambda *args, **kwargs: calls.append(args[0]) or decode(*args, **kwargs)
    )
    transform = ClipTransform(processor, num_frames=4, clip_duration_sec=1.0, num_repeats=3)
    rows = make_rows(clip, short_clip)
    inputs = transform(rows)
    assert calls == [clip, short_clip]
    assert inputs["labels"] == [0] * 6
    numbers = [frame_numbers(video) for video in inputs["pixel_values"]]
    assert len({tuple(each) for each in numbers[:3]}) == 3
    for each, position_ids in zip(numbers, inputs["position_ids"], strict=True):
        assert [number - each[0] for number in each] == position_ids.tolist()
    # The first of them is what a transform without repetition gives.
    single = ClipTransform(processor, num_frames=4, clip_duration_sec=1.0)(rows)
    assert [frame_numbers(video) for video in single["pixel_values"]] == numbers[::3]


def test_mixed_batches_hang_on_their_videos_alone(processor, clip):
    rows = make_rows(*[clip] * 4)
    rows["label"] = [0, 1, 2, 2]

    def draw(epoch):
        transform = ClipTransform(
            processor, num_frames=4, clip_duration_sec=1.0, num_labels=3, mixing=ClipMixing(mixup_alpha=0.8)
        )
        transform.set_epoch(epoch)
        inputs = transform(rows)
        return collate_videos([{name: values[n] for name, values in inputs.items()} for n in range(4)])

    first, again, later = draw(0), draw(0), draw(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["labels"], later["labels"])
    assert first["labels"].shape == (4, 3)
    assert first["labels"].dtype == torch.float32
    torch.testing.assert_close(first["labels"].sum(dim=1), torch.ones(4))
    assert ((first["labels"] > 0) & (first["labels"] < 1)).any()
    # In evaluation nothing is mixed.
    whole = ClipTransform(processor, num_labels=3, mixing=ClipMixing(mixup_alpha=0.8))(rows)
    assert torch.stack(whole["labels"]).tolist() == torch.eye(3)[rows["label"]].tolist()
    with pytest.raises(ValueError, match="Mixing needs `num_labels`"):
        ClipTransform(processor, num_frames=4, mixing=ClipMixing(mixup_alpha=0.8))


def test_augmentation_comes_before_the_normalisation(clip):
    processor = VTNVideoProcessor(size=8, crop_size=8)
    transform = ClipTransform(processor, num_frames=4, augmentation=ClipAugmentation(processor, flip_prob=1.0))
    plain = ClipTransform(processor, num_frames=4)
    # Frames of one colour each look the same in the mirror.
    for name in ("pixel_values", "position_ids"):
        assert torch.equal(transform(make_rows(clip))[name][0], plain(make_rows(clip))[name][0])


@pytest.mark.parametrize("protocol", ["transformers", "libswscale", "pyslowfast"])
@pytest.mark.parametrize("num_repeats", [1, 2])
@pytest.mark.parametrize("settings", [{}, {"crop_scale": (0.3, 0.9)}, {"resize_range": (56, 80)}])
def test_augmented_clips_have_the_pixels_of_the_protocol(videos_dir, protocol, num_repeats, settings):
    """Those of whole frames, augmented; nearly so where libswscale crops and resizes at once."""
    path = str(videos_dir / "mm_part.mp4")
    processor = VTNVideoProcessor(size=64, crop_size=48, pixel_protocol=protocol)
    augmentation = ClipAugmentation(processor, flip_prob=0.5, **settings)
    transform = ClipTransform(processor, num_frames=4, augmentation=augmentation, num_repeats=num_repeats)
    clips = transform(make_rows(path))["pixel_values"]
    frames = torch.from_numpy(decode_video(path)[0]).movedim(-1, -3)
    for repeat, clip in enumerate(clips):
        generator = transform._make_generator("video 0", repeat)
        numbers = sample_clip(len(frames), 4, None, generator)
        expected = processor.pixel_settings.normalize(augmentation(frames[numbers], generator))
        if protocol == "libswscale":
            assert not torch.equal(clip, expected)
            assert np.corrcoef(clip.flatten(), expected.flatten())[0, 1] > 0.97
        else:
            assert torch.equal(clip, expected)


def test_clip_of_some_seconds_of_uneven_frames(processor, tmp_path):
    times = [number / 30 for number in range(30)] + list(range(1, 31))
    path = str(write_video(tmp_path / "uneven.mp4", draw_frames(), times=times))
    inputs = ClipTransform(processor, num_frames=6, clip_duration_sec=5)(make_rows(*[path] * 20))
    for pixel_values in inputs["pixel_values"]:
        taken = [times[round(number)] for number in frame_numbers(pixel_values)]
        assert taken[-1] - taken[0] <= 5
        assert (np.diff(taken) <= 2).all()


@pytest.mark.parametrize("settings", [{}, {"num_frames": 4}, {"num_frames": 4, "augmentation": True}])
def test_limits(clip, settings):
    processor = VTNVideoProcessor(size=8, crop_size=8, decode_limits={"max_pixels": 10})
    if "augmentation" in settings:
        settings = settings | {"augmentation": ClipAugmentation(processor, flip_prob=1.0)}
    with pytest.raises(VideoDecodeError, match="max_pixels=10"):
        ClipTransform(processor, **settings)(make_rows(clip))


def test_damaged_video_is_named(processor, videos_dir):
    rows = {"video": [{"path": str(videos_dir / "decord_corrupted.mp4"), "bytes": None}], "label": [0]}
    with pytest.raises(VideoDecodeError, match="decord_corrupted.mp4"):
        ClipTransform(processor, num_frames=50)(rows)


def test_dataset_with_transform(processor, clip, short_clip):
    dataset = make_dataset(clip, short_clip, clip).with_transform(ClipTransform(processor))
    example = dataset[1]
    assert list(example) == ["pixel_values", "position_ids", "labels"]
    assert (frame_numbers(example["pixel_values"]), example["labels"]) == ([0, 1, 2, 3, 4], 1)
    assert dataset[[2, 0]]["labels"] == [2, 0]


@pytest.fixture
def importable_in_new_processes(tmp_path, monkeypatch):
    """New interpreters import `conftest` first, which lets them import torchvision, and then find `vtn_hf`."""
    paths = [str(Path(__file__).parent), str(Path(sys.modules["vtn_hf"].__file__).parents[1])]
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.path += {paths}\nimport conftest\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    monkeypatch.setenv("PYTHONPATH", path)


START_METHODS = [method for method in ("fork", "spawn") if method in multiprocessing.get_all_start_methods()]


@pytest.mark.parametrize("start_method", START_METHODS)
@pytest.mark.usefixtures("importable_in_new_processes")
def test_data_loader_with_workers(processor, clip, start_method):
    transform = ClipTransform(processor, num_frames=4, clip_duration_sec=1.0)
    dataset = make_dataset(*[clip] * 8).with_transform(transform)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        collate_fn=collate_videos,
        multiprocessing_context=start_method,
        persistent_workers=True,
    )

    def draw(epoch):
        transform.set_epoch(epoch)
        batches = list(loader)
        assert [batch["labels"].tolist() for batch in batches] == [[0, 1], [2, 0], [1, 2], [0, 1]]
        assert all("attention_mask" not in batch for batch in batches)
        for batch in batches:
            numbers = torch.tensor(frame_numbers(batch["pixel_values"]))
            assert torch.equal(batch["position_ids"], (numbers - numbers[:, :1]).long())
        return [numbers for batch in batches for numbers in frame_numbers(batch["pixel_values"])]

    first = draw(0)
    assert len({tuple(numbers) for numbers in first}) >= 6
    # The workers live on, and learn of the next epoch all the same.
    assert draw(1) != first
    assert draw(0) == first
    # The number of workers changes nothing.
    assert first == [frame_numbers(example["pixel_values"]) for example in dataset]


def test_data_loader_for_evaluation(processor, clip, short_clip):
    dataset = make_dataset(clip, short_clip, short_clip, short_clip).with_transform(ClipTransform(processor))
    mixed, short = DataLoader(dataset, batch_size=2, collate_fn=collate_videos)
    assert mixed["position_ids"].tolist() == [[0, 11, 23, 35, 47, 59], [0, 1, 2, 3, 4, 0]]
    assert mixed["attention_mask"].tolist() == [[1] * 6, [1] * 5 + [0]]
    assert short["position_ids"].tolist() == [[0, 1, 2, 3, 4]] * 2
    assert "attention_mask" not in short
    # The same batch as the processor's own.
    expected = processor([clip, short_clip], return_tensors="pt")
    for name, values in expected.items():
        torch.testing.assert_close(mixed[name], values, rtol=0, atol=0)


def make_example(num_frames, label):
    pixel_values = torch.arange(1.0, 1 + num_frames).reshape(-1, 1, 1, 1).expand(num_frames, 3, 2, 2)
    return {"pixel_values": pixel_values, "position_ids": 2 * torch.arange(num_frames), "labels": label}


def test_collate_videos_of_equal_length():
    batch = collate_videos([make_example(2, 5), make_example(2, 0)])
    assert sorted(batch) == ["labels", "pixel_values", "position_ids"]
    assert batch["pixel_values"].shape == (2, 2, 3, 2, 2)
    assert batch["pixel_values"][:, :, 0, 0, 0].tolist() == [[1, 2], [1, 2]]
    assert batch["position_ids"].tolist() == [[0, 2], [0, 2]]
    assert batch["labels"].tolist() == [5, 0]
    assert batch["labels"].dtype == torch.int64


def test_collate_videos_of_unequal_length():
    batch = collate_videos([make_example(1, 0), make_example(3, 1), make_example(2, 2)])
    assert batch["pixel_values"].shape == (3, 3, 3, 2, 2)
    assert batch["pixel_values"][:, :, 1, 1, 1].tolist() == [[1, 0, 0], [1, 2, 3], [1, 2, 0]]
    assert batch["position_ids"].tolist() == [[0, 0, 0], [0, 2, 4], [0, 2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1], [1, 1, 0]]
    assert batch["attention_mask"].dtype == torch.int64
    assert batch["labels"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("labels", "dtype"),
    [([[1.0, 0.0], [0.0, 1.0]], torch.float64), ([0.5, 2.5], torch.float64), ([[0, 1], [1, 1]], torch.int64)],
)
def test_collate_other_labels(labels, dtype):
    batch = collate_videos([make_example(1, label) for label in labels])
    assert batch["labels"].tolist() == labels
    assert batch["labels"].dtype == dtype


@pytest.mark.skipif(sys.platform != "linux", reason="memory can be limited on Linux")
def test_a_file_that_claims_more_frames_than_memory_costs_itself_only(tmp_path):
    path = tmp_path / "index.mp4"
    path.write_bytes(make_claim(num_frames=200_000_000))
    skipped = SkippedVideos(tmp_path / "skipped.jsonl")
    processor = VTNVideoProcessor(num_frames=4, size=8, crop_size=8, decode_limits={"max_bytes": 2**20})
    transform = ClipTransform(processor, num_frames=4, skipped=skipped)
    dataset = Dataset.from_dict({"video": [str(path)], "label": [0]}).with_transform(transform)
    (batch,) = DataLoader(dataset, num_workers=1, collate_fn=collate_videos)
    assert batch["labels"].tolist() == [-100]
    (video,) = skipped.summarize()
    assert video["video"] == str(path)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 3 * 2**20  # KiB; the index would take 4.5 GiB
    # The process at hand has no limit.
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY


def make_claim(num_frames: int) -> bytes:
    """An mp4 file of 600 bytes whose tables speak of any number of frames; FFmpeg makes an index of them."""

    def box(kind: bytes, *content: bytes) -> bytes:
        return struct.pack(">I", 8 + sum(map(len, content))) + kind + b"".join(content)

    def full(kind: bytes, *content: bytes) -> bytes:
        return box(kind, bytes(4), *content)

    def numbers(*values: int) -> bytes:
        return struct.pack(f">{len(values)}I", *values)

    matrix = numbers(0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    entry = box(b"mp4v", bytes(7), b"\1", bytes(16), struct.pack(">HH", 16, 16), bytes(50))
    tables = (
        full(b"stsd", numbers(1), entry),
        full(b"stts", numbers(1, num_frames, 1)),
        full(b"stsc", numbers(1, 1, num_frames, 1)),
        full(b"stsz", numbers(1, num_frames)),
        full(b"stco", numbers(1, 40)),
    )
    handler = full(b"hdlr", numbers(0), b"vide", bytes(13))
    media = box(b"mdia", full(b"mdhd", numbers(0, 0, 1000, 1000, 0)), handler, box(b"minf", box(b"stbl", *tables)))
    header = full(b"tkhd", numbers(0, 0, 1, 0, 1000), bytes(16), matrix, numbers(16 << 16, 16 << 16))
    movie = full(b"mvhd", numbers(0, 0, 1000, 1000, 0x10000), bytes(10), matrix, bytes(24), numbers(2))
    return box(b"ftyp", b"isom", bytes(4), b"isom") + box(b"moov", movie, box(b"trak", header, media))
