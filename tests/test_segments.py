"""A segment of a long file is, for everyone who reads it, what the same seconds cut out without loss are."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from collection_files import make_files, read_back
from datasets import Dataset
from test_video_decoding_vtn import encode
from tiny_models import make_vit_vtn
from video_files import write_video

from vtn_hf import VideoDecodeError, VTNVideoProcessor, video_decoding_vtn
from vtn_hf.data.clips import ClipTransform
from vtn_hf.data.collection import read_collection
from vtn_hf.data.extraction_plan import ExtractionPlan
from vtn_hf.data.rows import find_source
from vtn_hf.data.segments import VideoSegment
from vtn_hf.data.video_frames import iter_frame_rounds, iter_video_frames
from vtn_hf.inference.multi_view import MultiView, score_views
from vtn_hf.inference.whole_video import classify_video
from vtn_hf.video_decoding_vtn import decode_video


NUM_FRAMES = 120
FIRST, STOP = 43, 91
# Frames that come when they like, 10 per second on average.
IRREGULAR = np.r_[0, np.random.default_rng(1).uniform(0.02, 0.18, NUM_FRAMES - 1).round(4).cumsum()]
STEADY = np.arange(NUM_FRAMES) / 10


@pytest.fixture(scope="module", params=["constant", "variable"])
def files(request, tmp_path_factory):
    """A long file, the same seconds of it cut out, and the segment."""
    folder = tmp_path_factory.mktemp(request.param)
    frames = np.random.default_rng(0).integers(0, 256, (NUM_FRAMES, 24, 30, 3), np.uint8)
    times = IRREGULAR if request.param == "variable" else STEADY
    part = slice(FIRST, STOP)
    long = write_video(folder / "long.mp4", frames, times=times)
    cut = write_video(folder / "cut.mp4", frames[part], times=times[part] - times[FIRST])
    return str(long), str(cut), VideoSegment(str(long), times[FIRST], times[STOP])


@pytest.fixture(scope="module")
def model():
    return make_vit_vtn(num_frames=8)


@pytest.fixture(scope="module")
def processor():
    return VTNVideoProcessor(num_frames=8, size=18, crop_size=16)


def test_frames_and_times(files):
    _, cut, segment = files
    frames, metadata = decode_video(segment)
    expected, of_cut = decode_video(cut)
    assert np.array_equal(frames, expected)
    assert metadata.total_num_frames == STOP - FIRST and metadata.frames_indices == of_cut.frames_indices
    assert metadata.timestamps == pytest.approx(of_cut.timestamps, abs=1e-4)
    assert metadata.duration == pytest.approx(of_cut.duration, rel=0.05)
    some = decode_video(segment, lambda metadata: [40, 3, 3])[0]
    assert np.array_equal(some, expected[[40, 3, 3]])
    iterated = np.stack(list(iter_video_frames(segment, lambda metadata: [0, 7, metadata.total_num_frames - 1])))
    assert np.array_equal(iterated, expected[[0, 7, -1]])
    with pytest.raises(ValueError, match=f"frame {STOP - FIRST} was asked for, but the video has {STOP - FIRST}"):
        decode_video(segment, lambda metadata: [STOP - FIRST])


def test_rounds(files):
    _, cut, segment = files
    expected = decode_video(cut)[0]
    rounds = [[0, 20, 47], [3, 46], [2, 4, 30], [29, 31]]
    numbers = []
    for number, frame in iter_frame_rounds(segment, lambda metadata: rounds):
        assert np.array_equal(frame, expected[number])
        numbers.append(number)
    assert numbers == [number for part in rounds for number in part]


@pytest.mark.parametrize("settings", [{}, {"fps": 3.0}, {"num_frames": None}])
def test_processor_and_logits(files, model, processor, settings):
    _, cut, segment = files
    inputs, expected = (processor(video, return_tensors="pt", **settings) for video in (segment, cut))
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, model(**expected).logits, rtol=0, atol=1e-5)


def test_whole_video_and_views(files, model, processor):
    _, cut, segment = files
    result, expected = (classify_video(model, processor, video, window=8) for video in (segment, cut))
    torch.testing.assert_close(result.logits, expected.logits, rtol=0, atol=1e-5)
    assert [part.start_sec for part in result.timeline] == pytest.approx(
        [part.start_sec for part in expected.timeline], abs=1e-4
    )
    views = MultiView(num_clips=2, num_crops=3, num_frames=4, clip_duration_sec=1.5)
    scores, expected = (score_views(model, views.load(video, processor)) for video in (segment, cut))
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("num_frames", [None, 4])
def test_rows(files, processor, num_frames):
    """In training (the same draws for the same name) and in evaluation."""
    long, cut, segment = files
    # Of a variable rate, the headers of the two files tell other means.
    seconds = 2.0 if num_frames and np.ptp(np.diff(decode_video(cut)[1].frame_times)) < 0.01 else None
    transform = ClipTransform(processor, num_frames=num_frames, clip_duration_sec=seconds)
    row = {"video": long, "label": 0, "name": "x"}
    rows = [
        row | {"start_sec": segment.start_sec, "end_sec": segment.end_sec},
        row | {"start_sec": None, "end_sec": 2},
    ]
    examples = Dataset.from_list(rows).with_transform(transform)
    [expected] = Dataset.from_list([row | {"video": cut}]).with_transform(transform)
    assert all(torch.equal(examples[0][name], expected[name]) for name in ("pixel_values", "position_ids"))
    assert len(examples[1]["position_ids"]) == (num_frames or 8)


def test_extraction(files, tmp_path):
    long, _, segment = files
    (tmp_path / "train.csv").write_text(
        f"video,label,start_sec,end_sec\n{long},a,{segment.start_sec},{segment.end_sec}\n{long},b,0,1\n{long},b,,\n"
    )
    plan = ExtractionPlan(tmp_path / "features", read_collection(tmp_path), 1)
    first, second, whole = (each.video for each in plan.to_do["train"])
    # Lists count to the millisecond.
    assert first.source == VideoSegment(long, round(segment.start_sec, 3), round(segment.end_sec, 3))
    assert second.source == VideoSegment(long, 0.0, 1.0) and whole.source == long
    assert len({each.key for each in plan.to_do["train"]}) == 3 and second.name == f"{long}#t=0,1"


@pytest.mark.parametrize(
    ("start", "end", "frames"),
    [
        (None, 0.3, [0, 1, 2]),
        (11.8, None, [118, 119]),
        (11.8, 12.04, [118, 119]),  # rounded
        (0.2996, 0.5004, [3, 4]),  # to milliseconds
        (0.31, 0.34, [3]),  # what is shown then
    ],
)
def test_which_frames(start, end, frames):
    part = VideoSegment("x", start, end).find(STEADY, 12.0)
    assert list(range(part.start, part.stop)) == frames


@pytest.mark.parametrize(("start", "end"), [(3, 3), (3, 2), (-1, 2), (None, 0), (float("nan"), 2), (1, float("inf"))])
def test_no_segment(start, end):
    with pytest.raises(ValueError, match=f"from {start or 0} s to .*: seconds, and the end behind the start"):
        VideoSegment("x", start, end)


@pytest.mark.parametrize(("start", "end"), [(5, 99), (12.5, 99), (12.5, None)])
def test_beyond_the_end(files, start, end):
    """The error names both; in training it costs this segment only."""
    with pytest.raises(
        VideoDecodeError, match=rf"long.mp4: the segment from {start} s .* the end, which is at 1\d\.\d"
    ):
        decode_video(VideoSegment(files[0], start, end))


def test_a_segment_of_what_is_no_file(files):
    for source in (files[2], 7):
        with pytest.raises(ValueError, match=f"must be a path, .* got {type(source).__name__}"):
            decode_video(VideoSegment(source, 0, 1))


def test_find_source():
    nan = float("nan")
    assert find_source("a.mp4", "", None, nan) == find_source("a.mp4", "", nan, nan) == "a.mp4"
    assert find_source({"path": "a.mp4"}, "", nan, 2.0) == VideoSegment("a.mp4", None, 2.0)


LISTS = {
    "own": "video,label,start_sec,end_sec\na.mp4,run,1.5,3\na.mp4,walk,3,\nsub/b.mkv,run,,\n",
    "other names": "label;video;Start;End\nrun;a.mp4;1.5;3.0\nwalk;a;3;\nrun;sub/b.mkv;;\n",
    "ava": "a,1.5,3,run\na.mp4,3,4.25,walk\nb,0,2,run\n",
    "ava with tabs": "a\t1.5\t3\trun\na\t3\t4.25\twalk\nsub/b.mkv\t0\t2\trun\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_lists(tmp_path, name):
    make_files(tmp_path, "a.mp4", "sub/b.mkv")
    (tmp_path / "train.csv").write_text(LISTS[name])
    collection = read_collection(tmp_path)
    rows = list(collection.videos["train"])
    paths = [str(Path(row["video"]["path"]).relative_to(tmp_path)) for row in rows]
    assert paths == ["a.mp4", "a.mp4", "sub/b.mkv"]
    assert [row["label"] for row in rows] == [0, 1, 0] and collection.class_names == ["run", "walk"]
    assert (rows[0]["start_sec"], rows[0]["end_sec"], rows[1]["start_sec"]) == (1.5, 3.0, 3.0)
    assert rows[0]["name"].startswith("a") and rows[0]["name"].endswith("#t=1.5,3")


def test_numbers_of_classes(tmp_path):
    make_files(tmp_path, "a.mp4")
    (tmp_path / "train.csv").write_text("a,0,1,2\na,1,2,0\n")
    assert read_back(read_collection(tmp_path, ["x", "y", "z"])) == {"a#t=0,1": "z", "a#t=1,2": "x"}
    (tmp_path / "train.csv").write_text("a,,1,2\na,1.5,,0\na,.5,1.,1\n")
    names = {"a#t=,1": "z", "a#t=1.5": "x", "a#t=0.5,1": "y"}
    assert read_back(read_collection(tmp_path, ["x", "y", "z"])) == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("video,label,start_sec,end_sec\na.mp4,run,3,1\n", "train.csv:2: start and end of a segment must be seconds"),
        ("video,label,start_sec,end_sec\na.mp4,run,x,1\n", "train.csv:2: .*got 'x' and '1'"),
        ("a,1,2,run\na,1,2\n", "train.csv:2: expected a video, start, end and label"),
        ("a,1,2,run\na,4,2,run\n", "train.csv:2: start and end"),
        ("a,1,2,run\na,1,2,walk\n", "train.csv:1 and train.csv:2 are the same file, but of different classes"),
        ("a,1,2,run\na,1.0001,2.0,walk\n", "train.csv:1 and train.csv:2 are the same file, but of different classes"),
        ("a,-1,2,run\n", "train.csv:1: start and end of a segment must be seconds from 0 on"),
        ("video,label,start,start\na.mp4,run,1,2\n", "train.csv:1: there are several columns start"),
    ],
)
def test_bad_lists(tmp_path, content, message):
    make_files(tmp_path, "a.mp4")
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_collection(tmp_path)


def test_what_is_held_out_shares_no_file(tmp_path):
    make_files(tmp_path, *(f"{number}.mp4" for number in range(20)))
    lines = [f"{number}.mp4,{start % 3},{start},{start + 1}" for number in range(20) for start in range(9)]
    (tmp_path / "train.csv").write_text("\n".join(["video,label,start,end", *lines]))
    collection = read_collection(tmp_path, val_share=0.2)
    paths = {split: {row["path"] for row in videos["video"]} for split, videos in collection.videos.items()}
    assert not paths["train"] & paths["val"] and len(paths["val"]) == 4
    assert "both" not in collection.describe()
    (tmp_path / "val.csv").write_text("video,label,start,end\n3.mp4,1,20,21\n")
    assert "1 file(s) have parts in both train and val: 3.mp4" in read_collection(tmp_path).describe()


def write_activitynet(root, **entries):
    (root / "activity_net.json").write_text(json.dumps({"version": "1.3", "taxonomy": [], "database": entries}))
    return root


def test_activitynet(tmp_path):
    make_files(tmp_path, "videos/v_aaa.mp4", "videos/deeper/bbb.webm")
    write_activitynet(
        tmp_path,
        aaa={
            "subset": "training",
            "annotations": [{"segment": [6.19, 19.96], "label": "Archery"}, {"segment": [20, 30], "label": "Surfing"}],
        },
        bbb={"subset": "validation", "annotations": [{"segment": [0.5, 2], "label": "Surfing"}]},
        ccc={"subset": "training", "annotations": [{"segment": [1, 2], "label": "Archery"}]},
        ddd={"subset": "testing", "annotations": []},
        eee={"subset": "validation", "annotations": [{"segment": [5, 2], "label": "Surfing"}]},
    )
    collection = read_collection(tmp_path)
    assert read_back(collection) == {"aaa#t=6.19,19.96": "Archery", "aaa#t=20,30": "Surfing"}
    assert read_back(collection, "val") == {"bbb#t=0.5,2": "Surfing"}
    assert collection.videos["val"][0]["video"]["path"] == str(tmp_path / "videos/deeper/bbb.webm")
    assert collection.missing["train"] == ["ccc#t=1,2"]
    [(where, reason)] = collection.bad["val"].items()
    assert "eee" in where and "the end behind the start, got 5 and 2" in reason
    assert "1 video(s) have no annotations, and are left out: ddd" in collection.describe()


def test_activitynet_with_several_labels(tmp_path):
    make_files(tmp_path, "aaa.mp4")
    both = [{"segment": [1, 2], "label": label} for label in ("Diving", "Cliff diving")]
    write_activitynet(tmp_path, aaa={"subset": "Test", "annotations": [*both, {"segment": [3, 4], "label": "Diving"}]})
    assert read_back(read_collection(tmp_path), "test") == {
        "aaa#t=1,2": ["Cliff diving", "Diving"],
        "aaa#t=3,4": ["Diving"],
    }


@pytest.mark.parametrize(
    ("entry", "message"),
    [({"annotations": []}, "aaa has the subset None"), ([], "`database` must be a dictionary of dictionaries")],
)
def test_bad_activitynet(tmp_path, entry, message):
    with pytest.raises(ValueError, match=message):
        read_collection(write_activitynet(tmp_path, aaa=entry))


@pytest.fixture
def counts(monkeypatch):
    """Packets that are read and frames that come out of the decoder, from now on."""
    counts, reader = {"packets": 0, "frames": 0}, video_decoding_vtn.VideoReader
    demux, check = reader._demux, reader._check_frame

    def count_packets(self):
        for packet in demux(self):
            counts["packets"] += 1
            yield packet

    def count_frames(*args, **kwargs):
        counts["frames"] += 1
        return check(*args, **kwargs)

    monkeypatch.setattr(reader, "_demux", count_packets)
    monkeypatch.setattr(reader, "_check_frame", count_frames)
    return counts


@pytest.mark.parametrize("start", [0.0, 31.4, 50.0])
def test_only_what_is_needed_is_read(tmp_path, counts, start):
    """Of a file of any length: with a key frame every 12 frames, the ones around."""
    frames = np.random.default_rng(0).integers(0, 256, (600, 16, 16, 3), np.uint8)
    path = write_video(tmp_path / "long.mp4", frames)
    found, metadata = decode_video(VideoSegment(str(path), start, start + 1.0))
    assert np.array_equal(found, frames[round(10 * start) : round(10 * start) + 10])
    assert metadata.frame_times == pytest.approx(np.arange(10) / 10)
    assert counts["frames"] <= 40 and counts["packets"] <= 160


ENCODINGS = {
    "mp4": ("x.mp4", {}),
    "B frames": ("x.mp4", {"options": {"x264-params": "bframes=4:b-pyramid=normal:keyint=25"}}),
    "open groups": ("x.mp4", {"options": {"x264-params": "bframes=3:open-gop=1:keyint=20:min-keyint=20"}}),
    "one key frame": ("x.mp4", {"options": {"x264-params": "bframes=2:keyint=900"}}),
    "intra refresh": ("x.mp4", {"options": {"x264-params": "intra-refresh=1:keyint=30:bframes=0"}}),
    "fragments": ("x.mp4", {"container": {"movflags": "frag_keyframe+empty_moov"}, "gop": 15}),
    "matroska": ("x.mkv", {"options": {"x264-params": "bframes=3:keyint=30"}}),
    "hevc": ("x.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:keyint=24:bframes=3"}}),
    "vp9": ("x.webm", {"codec": "libvpx-vp9", "gop": 20, "options": {"deadline": "realtime", "cpu-used": "8"}}),
    "variable": ("x.mp4", {"pts": lambda number: 33 * number + 7 * (number % 3), "gop": 20}),
    "avi": ("x.avi", {"codec": "mpeg4"}),
    "transport stream": ("x.ts", {"gop": 20}),
}


@pytest.mark.parametrize("name", ENCODINGS)
def test_every_encoding(tmp_path, name):
    """The same frames as of the whole, wherever the segment is."""
    file, settings = ENCODINGS[name]
    path = tmp_path / file
    encode(path, num_frames=240, **settings)
    frames, metadata = decode_video(str(path))
    times = np.round(1000 * metadata.frame_times)
    for start, end in ((0, 0.5), (2.0, 2.5), (3.333, 5.01), (6.9, 7.4), (7.0, 7.9), (4.0, 4.02)):
        found, of_segment = decode_video(VideoSegment(str(path), start, end))
        expected = np.flatnonzero((times >= round(1000 * start)) & (times < round(1000 * end)))
        expected = expected if len(expected) else [np.flatnonzero(times <= round(1000 * start))[-1]]
        assert np.array_equal(found, frames[expected]), (start, end)
        some = decode_video(VideoSegment(str(path), start, end), lambda metadata: [metadata.total_num_frames - 1])[0]
        assert np.array_equal(some[0], found[-1])
        in_rounds = dict(
            iter_frame_rounds(
                VideoSegment(str(path), start, end),
                lambda metadata: [range(first, metadata.total_num_frames, 3) for first in (2, 0, 1)],
            )
        )
        assert len(in_rounds) == len(found)
        assert all(np.array_equal(frame, found[number]) for number, frame in in_rounds.items())
        assert of_segment.frame_times == pytest.approx((times[expected] - times[expected[0]]) / 1000, abs=0.001)


def test_damage_elsewhere_costs_nothing(tmp_path):
    """And damage within is found, as in a whole file."""
    frames = np.random.default_rng(0).integers(0, 256, (300, 32, 32, 3), np.uint8)
    path = write_video(tmp_path / "long.mp4", frames)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    assert np.array_equal(decode_video(VideoSegment(str(path), 2.0, 4.0))[0], frames[20:40])
    assert np.array_equal(decode_video(VideoSegment(str(path), 26.0, 28.0))[0], frames[260:280])
    with pytest.raises(VideoDecodeError):
        decode_video(VideoSegment(str(path), 13.0, 17.0))


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        ({"segment": [None, 3], "label": "Diving"}, "seconds from 0 on, the end behind the start, got None and '?3"),
        ({"segment": [0, 3], "label": 3}, "a segment of two numbers and a label, got .*'label': 3"),
    ],
)
def test_activitynet_of_nothing_but_bad_annotations(tmp_path, annotation, message):
    write_activitynet(make_files(tmp_path, "aaa.mp4"), aaa={"subset": "training", "annotations": [annotation]})
    with pytest.raises(ValueError, match=f"has no annotated segments. activity_net.json: aaa: .*{message}"):
        read_collection(tmp_path)


@pytest.mark.slow
def test_benchmark(tmp_path, monkeypatch):
    """The file that is repeated, and not encoded anew, has segments everywhere."""
    path = Path(__file__).parent.parent / "examples/benchmarks/segments.py"
    spec = importlib.util.spec_from_file_location("segments", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(benchmark, "LENGTHS", {"minute": 1, "hour": 2})
    assert benchmark.main(["--output", str(tmp_path / "segments.json"), "--num_segments", "2"]) == 0
    rows = json.loads((tmp_path / "segments.json").read_text())["rows"]
    assert [row["container"] for row in rows] == ["mp4", "mkv", "ts"] * 2 and all(row["ratio"] > 0 for row in rows)
