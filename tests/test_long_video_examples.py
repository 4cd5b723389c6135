"""`examples/classify.py` and `examples/stream.py` on files, folders and what cannot be decoded."""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import av
import classify
import pytest
import stream
import torch
from example_runs import run, take_stock
from test_whole_video import PROCESSOR, make_model, make_pictures
from video_files import write_video


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    make_model().save_pretrained(directory)
    PROCESSOR.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def three_videos(tmp_path_factory):
    """Two of them with names that differ in their endings only, two in their folders only."""
    root = tmp_path_factory.mktemp("videos")
    for number, name in enumerate(("a/x.mp4", "a/x.mkv", "b/x.mp4")):
        (root / name).parent.mkdir(exist_ok=True)
        write_video(root / name, make_pictures(8 + 2 * number, seed=number))
    return root


@pytest.fixture
def videos(three_videos, tmp_path, monkeypatch):
    """The same and a file that is no video, in a working directory of their own; none of it may change."""
    root = shutil.copytree(three_videos, tmp_path / "videos")
    (root / "b/broken.mp4").write_bytes(b"no video")
    (tmp_path / "link.mp4").symlink_to(root / "a/x.mp4")
    os.link(root / "a/x.mp4", tmp_path / "hard.mp4")
    monkeypatch.chdir(tmp_path)
    before = take_stock(root)
    yield Path("videos")
    assert take_stock(root) == before


def read(path: Path) -> list[dict]:
    if path.suffix == ".csv":
        return list(csv.DictReader(path.read_text().splitlines()))
    return json.loads(path.read_text()) if path.suffix == ".json" else list(map(json.loads, path.open()))


def test_classify_folders_globs_and_broken_files(model_dir, tmp_path, capsys):
    (tmp_path / "folder/below").mkdir(parents=True)
    for number, name in enumerate(("folder/a.mp4", "folder/below/b.mp4", "c1.mp4")):
        write_video(tmp_path / name, make_pictures(12, seed=number, width=41 + 7))
    (tmp_path / "folder/broken.mp4").write_bytes(b"no video")
    arguments = [model_dir, tmp_path / "folder", tmp_path / "c*.mp4", tmp_path / "c1.mp4", "--window", 6, "--top_k", 2]
    code = run("classify", *arguments, "--output", tmp_path / "out/scores.jsonl")
    rows = read(tmp_path / "out/scores.jsonl")
    assert code == 1 and re.search("1 of 4 videos failed:\n    .*broken.mp4: Invalid data", capsys.readouterr().err)
    assert [Path(row["video"]).name for row in rows] == ["a.mp4", "b.mp4", "c1.mp4"]
    assert all(len(row["scores"]) == 2 and row["frames"] == 12 for row in rows)
    assert [(part["start_sec"], part["end_sec"]) for part in rows[0]["timeline"]] == [
        (0.0, 0.4),
        (0.4, 0.7),
        (0.7, 1.2),
    ]
    assert run("classify", *arguments, "--output", tmp_path / "scores.json") == 1
    assert read(tmp_path / "scores.json") == rows
    assert run("classify", *arguments, "--output", tmp_path / "scores.csv") == 1
    lines = read(tmp_path / "scores.csv")
    assert [line["video"] for line in lines] == [row["video"] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        best = [{"label": line[f"label{end}"], "score": float(line[f"score{end}"])} for end in ("", "_2")]
        assert best == row["scores"]
        assert json.loads(line["timeline"])[0][0].startswith("0.0 s to ")


@pytest.mark.parametrize("option", ["--int8", "--compile"])
def test_classify_faster(model_dir, tmp_path, monkeypatch, capsys, option):
    path = write_video(tmp_path / "video.mp4", make_pictures(10))
    if option == "--compile":
        compile = torch.compile
        monkeypatch.setattr(torch, "compile", lambda function: compile(function, backend="eager"))
    scores = []
    for flags in ([], [option]):
        assert run("classify", model_dir, path, *flags, "--output", tmp_path / f"{len(flags)}.json") == 0
        [row] = read(tmp_path / f"{len(flags)}.json")
        scores.append({best["label"]: best["score"] for best in row["scores"]})
    assert scores[1] == pytest.approx(scores[0], abs=0.1 if option == "--int8" else 1e-5)
    printed = re.findall(
        r"int8: [\d.]+ times as fast .* logits, of up to [\d.]+, change by at most", capsys.readouterr().out
    )
    assert len(printed) == (option == "--int8")


@pytest.mark.parametrize(("name", "fps"), [("annotated.mp4", 5), ("annotated.mkv", 30)])
def test_classify_saves_an_annotated_copy(model_dir, tmp_path, name, fps):
    path = write_video(tmp_path / "video.mp4", make_pictures(12, height=41, width=64), fps=fps)
    copy = tmp_path / "copies" / name
    assert run("classify", model_dir, path, "--fps", 2.5, "--window", 2, "--save_video", copy) == 0
    with av.open(str(copy)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == fps
    assert len(frames) == 12 and frames[0].shape == (40, 64, 3)
    # The label lies on black, where the noise was.
    assert (frames[0][6:14, 6:30] < 30).mean() > 0.5 > (frames[0][20:] < 30).mean()


def test_copies_keep_the_places_of_their_videos(model_dir, videos):
    assert run("classify", model_dir, videos, "--save_video", "copies") == 1
    copies = {path.relative_to("copies").as_posix() for path in Path("copies").rglob("*") if path.is_file()}
    assert copies == {"a/x.mp4", "a/x.mkv.mp4", "b/x.mp4"}
    for name, num_frames in (("a/x.mp4", 8), ("a/x.mkv.mp4", 10), ("b/x.mp4", 12)):
        with av.open(f"copies/{name}") as container:
            assert len(list(container.decode(video=0))) == num_frames


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["videos/a/x.mp4", "--save_video", "videos/a/x.mp4"], "is the input videos/a/x.mp4"),
        (["videos/a/x.mp4", "--save_video", "videos/a/../a/x.mp4"], "is the input videos/a/x.mp4"),
        (["videos/a/x.mp4", "--save_video", "link.mp4"], "is the input videos/a/x.mp4"),
        (["link.mp4", "--save_video", "videos/a/x.mp4"], "is the input link.mp4"),
        (["videos/a/x.mp4", "--save_video", "hard.mp4"], "is the input videos/a/x.mp4"),
        (["videos/a/x.mp4", "videos/b/x.mp4", "--save_video", "videos"], "is the input videos/a/x.mp4"),
        (["videos/*/x.mp4", "--save_video", "videos"], "is the input videos/a/x.mp4"),
        (["videos", "--save_video", "videos/copies"], "lies inside the input videos"),
        (["videos", "--output", "videos/scores.csv"], "lies inside the input videos"),
        (["videos", "--save_video", "copies.mp4"], "copies.mp4 is one file for 4 videos; name a folder"),
        (["videos", "--output", "scores.txt"], "--output must end in .jsonl, .json, .csv, got scores.txt"),
        (["videos", "--output", "there.csv"], "there.csv exists already"),
        (["videos/b/x.mp4", "--save_video", "hard.mp4"], "hard.mp4 exists already"),
        (["nowhere"], "nowhere: no such file or folder"),
        (["videos", "nowhere.mp4"], "nowhere.mp4: no such file or folder"),
        (["empty"], "empty: no videos there"),
        (["*.webm"], "*.webm: no videos there"),
        (["videos", "--window", "0"], "--window: invalid positive int value: '0'"),
        (["videos", "--fps", "-1"], "--fps: invalid positive float value: '-1'"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_classify_refuses_what_cannot_be(model_dir, videos, capsys, arguments, message, overwrite):
    Path("there.csv").write_text("precious")
    Path("empty").mkdir()
    if overwrite and "exists already" in message:
        return
    assert run("classify", model_dir, *arguments, *["--overwrite"] * overwrite) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert set(os.listdir()) == {"videos", "link.mp4", "hard.mp4", "there.csv", "empty"}
    assert Path("there.csv").read_text() == "precious"


def test_the_model_is_an_input_too(model_dir, videos, capsys):
    before = take_stock(model_dir)
    assert run("classify", model_dir, videos, "--output", model_dir / "config.json", "--overwrite") == 2
    assert "is the input" in capsys.readouterr().err
    assert take_stock(model_dir) == before


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.json", "scores.csv"])
def test_classify_goes_on_where_it_was_stopped(model_dir, videos, monkeypatch, capsys, name):
    arguments = [model_dir, "videos", "--save_video", "copies", "--output", name]
    seen = []

    def stop_at_the_second(*arguments, **settings):
        seen.append(arguments[2])
        if len(seen) == 2:
            raise KeyboardInterrupt
        return classify_video(*arguments, **settings)

    classify_video = classify.classify_video
    monkeypatch.setattr(classify, "classify_video", stop_at_the_second)
    assert run("classify", *arguments) == 130
    assert "Stopped; the same command goes on." in capsys.readouterr().err
    assert [row["video"] for row in read(Path(name))] == seen[:1] == ["videos/a/x.mkv"]
    first = (Path("copies/a/x.mkv.mp4").stat(), Path(name).read_text().rstrip("\n]"))

    assert run("classify", *arguments, "--top_k", 1) == 2
    assert f"{name} was made with top_k 5, not 1." in capsys.readouterr().err
    assert run("classify", *arguments) == 1
    assert "1 of 4 videos are done already" in capsys.readouterr().out
    assert [row["video"] for row in read(Path(name))] == ["videos/a/x.mkv", "videos/a/x.mp4", "videos/b/x.mp4"]
    assert Path("copies/a/x.mkv.mp4").stat() == first[0] and Path(name).read_text().startswith(first[1])

    # What is missing of a copy is made again, and no score twice.
    Path("copies/b/x.mp4").unlink()
    assert run("classify", *arguments) == 1 and len(read(Path(name))) == 3 and Path("copies/b/x.mp4").exists()
    assert run("classify", model_dir, "videos/a", "--output", name, "--top_k", 2, "--overwrite") == 0
    assert [row["video"] for row in read(Path(name))] == ["videos/a/x.mkv", "videos/a/x.mp4"]


def test_a_copy_that_cannot_be_written_costs_no_score(model_dir, videos, capsys):
    Path("copies/a").mkdir(parents=True)
    Path("copies/a/x.mp4").mkdir()
    arguments = [model_dir, "videos/a", "videos/b/x.mp4", "--save_video", "copies", "--output", "scores.json"]
    assert run("classify", *arguments) == 1
    assert "copies/a/x.mp4 is not a file" in capsys.readouterr().err
    assert len(read(Path("scores.json"))) == 3
    assert Path("copies/a/x.mkv.mp4").is_file() and Path("copies/b/x.mp4").is_file()


def test_stream_a_file_at_its_pace(model_dir, tmp_path, capsys):
    path = write_video(tmp_path / "video.mp4", make_pictures(16), fps=20)
    assert run("stream", model_dir, path, "--predict_every", 4) == 0
    output = capsys.readouterr().out
    assert "LABEL_" in output and "16 frames read" in output and "0 changes of size" in output


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.json", "scores.csv"])
def test_stream_writes_predictions_as_they_are_made(model_dir, videos, monkeypatch, capsys, name):
    push, frames_seen = stream.StreamingClassifier.push, []

    def stop_at_the_seventh(self, frames, times):
        if len(frames_seen) == 6:
            raise KeyboardInterrupt
        frames_seen.append(times)
        return push(self, frames, times)

    monkeypatch.setattr(stream.StreamingClassifier, "push", stop_at_the_seventh)
    arguments = [model_dir, "videos/a/x.mp4", "--predict_every", 2, "--top_k", 2, "--output", name]
    assert run("stream", *arguments) == 0
    rows = read(Path(name))
    assert [int(row["frames_seen"]) for row in rows] == [2, 4, 6]
    assert [float(row["end_sec"]) for row in rows] == pytest.approx([time for [time] in frames_seen[1::2]])
    best = rows[0]["label"] if name.endswith("csv") else rows[0]["scores"][0]["label"]
    assert f" {best} " in capsys.readouterr().out
    assert run("stream", *arguments) == 2 and f"{name} exists already" in capsys.readouterr().err
    frames_seen.clear()
    assert run("stream", *arguments, "--overwrite") == 0 and len(read(Path(name))) == 3


@pytest.mark.parametrize("output", ["videos/a/x.mp4", "link.mp4", "hard.mp4"])
def test_stream_refuses_to_write_into_its_source(model_dir, videos, capsys, output):
    Path("x.csv").symlink_to(output)
    for name in (output, "x.csv"):
        assert run("stream", model_dir, "videos/a/x.mp4", "--output", name, "--overwrite") == 2
        assert "is the input" in capsys.readouterr().err or name == output


def test_stream_asks_for_matplotlib_before_it_begins(model_dir, videos, monkeypatch, capsys):
    monkeypatch.setattr(stream.importlib.util, "find_spec", lambda name: None)
    assert run("stream", model_dir, "videos/a/x.mp4", "--show") == 2
    assert "--show needs matplotlib: pip install matplotlib" in capsys.readouterr().err


def test_time_goes_on_where_timestamps_do_not():
    clock = stream.Clock(rate=10)
    stamps = [5.0, 5.1, None, 5.3, 0.0, 0.1, 1e19, 1e19, 0.1, 60.1]
    times = [5.0, 5.1, 5.2, 5.3, 5.4, 5.5, 5.6, 5.6, 5.7, 65.7]
    assert [clock.read(stamp) for stamp in stamps] == pytest.approx(times)
    assert stream.Clock(rate=10).read(1.7e9) == 0.1


def test_stream_reports_a_source_that_fails(model_dir, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    assert run("stream", model_dir, tmp_path / "broken.mp4") == 1
    captured = capsys.readouterr()
    assert "0 frames read" in captured.out and "The source failed" in captured.err


def test_stream_drops_what_it_is_too_slow_for():
    source = stream.LiveSource("/no/such/file", size=2)
    source._thread.join()
    pictures = make_pictures(5)
    for number, picture in enumerate(pictures):
        source._put(picture, number / 10)
    assert (source.num_read, source.num_dropped) == (5, 3)
    assert [source.read(0)[1], source.read(0)[1], source.read(0)] == [0.3, 0.4, None]
    assert source.error is not None
