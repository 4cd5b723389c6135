"""`vtn classify` on files, folders and what cannot be decoded."""

import json
import os
import re
from pathlib import Path

import av
import pytest
import torch
from example_runs import run, take_stock
from long_videos import model_dir, read, three_videos, videos  # noqa: F401 - fixtures
from test_whole_video import PROCESSOR, make_model, make_pictures
from video_files import write_video

from vtn_hf.commands import arguments, classify


def test_classify_folders_globs_and_broken_files(model_dir, tmp_path, capsys):  # noqa: F811
    (tmp_path / "folder/below").mkdir(parents=True)
    for number, name in enumerate(("folder/a.mp4", "folder/below/b.mp4", "c1.mp4")):
        write_video(tmp_path / name, make_pictures(12, seed=number, width=41 + 7))
    (tmp_path / "folder/broken.mp4").write_bytes(b"no video")
    arguments = [
        "--model",
        model_dir,
        tmp_path / "folder",
        tmp_path / "c*.mp4",
        tmp_path / "c1.mp4",
        "--window",
        6,
        "--top_k",
        2,
    ]
    code = run("classify", *arguments, "--output", tmp_path / "out/scores.jsonl")
    rows = read(tmp_path / "out/scores.jsonl")
    assert code == 1 and re.search("1 of 4 videos failed:\n    .*broken.mp4: Invalid data", capsys.readouterr().err)
    # Each video stands there once, in their order, a broken one with the reason.
    assert [Path(row["video"]).name for row in rows] == ["a.mp4", "b.mp4", "broken.mp4", "c1.mp4"]
    assert "broken.mp4: Invalid data" in rows.pop(2)["error"] and not any("error" in row for row in rows)
    assert all(len(row["scores"]) == 2 and row["frames"] == 12 for row in rows)
    assert [(part["start_sec"], part["end_sec"]) for part in rows[0]["timeline"]] == [
        (0.0, 0.4),
        (0.4, 0.7),
        (0.7, 1.2),
    ]
    assert run("classify", *arguments, "--output", tmp_path / "scores.json") == 1
    assert [row for row in read(tmp_path / "scores.json") if "error" not in row] == rows
    assert run("classify", *arguments, "--output", tmp_path / "scores.csv") == 1
    lines = read(tmp_path / "scores.csv")
    assert "broken.mp4: Invalid data" in lines.pop(2)["error"] and not any(line["error"] for line in lines)
    assert [line["video"] for line in lines] == [row["video"] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        best = [{"label": line[f"label{end}"], "score": float(line[f"score{end}"])} for end in ("", "_2")]
        assert best == row["scores"]
        assert json.loads(line["timeline"])[0][0].startswith("0.0 s to ")


@pytest.mark.parametrize("option", ["--int8", "--compile"])
def test_classify_faster(model_dir, tmp_path, monkeypatch, capsys, option):  # noqa: F811
    path = write_video(tmp_path / "video.mp4", make_pictures(10))
    if option == "--compile":
        compile = torch.compile
        monkeypatch.setattr(torch, "compile", lambda function: compile(function, backend="eager"))
    scores = []
    for flags in ([], [option]):
        assert run("classify", "--model", model_dir, path, *flags, "--output", tmp_path / f"{len(flags)}.json") == 0
        [row] = read(tmp_path / f"{len(flags)}.json")
        scores.append({best["label"]: best["score"] for best in row["scores"]})
    assert scores[1] == pytest.approx(scores[0], abs=0.1 if option == "--int8" else 1e-5)
    printed = re.findall(
        r"int8: [\d.]+ times as fast .* logits, of up to [\d.]+, change by at most", capsys.readouterr().out
    )
    assert len(printed) == (option == "--int8")


def test_classify_until_it_is_certain(tmp_path, capsys):
    model = make_model()
    with torch.no_grad():
        model.classifier.out_proj.bias[2] += 100
    model.config.anytime_confidence = 0.9
    model.save_pretrained(tmp_path / "model")
    PROCESSOR.save_pretrained(tmp_path / "model")
    path = write_video(tmp_path / "video.mp4", make_pictures(40))
    for name, limits, expected in (
        ("certain", ["--confidence", 0.95], ("certain", 12)),
        ("stored", ["--confidence", "stored", "--min_frames", 4], ("certain", 6)),
        ("time", ["--max_seconds", 1e-6], ("time", 8)),
        ("all", ["--confidence", 1.0, "--calibrated"], ("all frames", 40)),
    ):
        output = tmp_path / f"{name}.csv"
        assert run("classify", "--model", tmp_path / "model", path, *limits, "--output", output) == 0
        [row] = read(output)
        assert (row["stopped"], int(row["frames"])) == expected
    printed = capsys.readouterr().out
    assert "after 12 frames: certain" in printed and "after 8 frames: the time was up" in printed
    arguments = ["--model", tmp_path / "model", path, "--output", tmp_path / "certain.csv"]
    assert run("classify", *arguments, "--confidence", 0.5) == 2  # another setting is another result
    assert "confidence" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["torch", "openvino", "auto"])
def test_classify_by_another_engine(model_dir, tmp_path, monkeypatch, engine):  # noqa: F811
    path, asked = write_video(tmp_path / "video.mp4", make_pictures(5)), []
    monkeypatch.setattr(arguments, "optimize", lambda model, **settings: asked.append(settings) or model)
    assert run("classify", "--model", model_dir, path, "--engine", engine, "--dtype", "bfloat16") == 0
    others = {"int8": False, "compile": False}
    assert asked == [others if engine == "torch" else {"engine": engine, "dtype": "bfloat16", **others}]


@pytest.mark.parametrize(("name", "fps"), [("annotated.mp4", 5), ("annotated.mkv", 30)])
def test_classify_saves_an_annotated_copy(model_dir, tmp_path, name, fps):  # noqa: F811
    path = write_video(tmp_path / "video.mp4", make_pictures(12, height=41, width=64), fps=fps)
    copy = tmp_path / "copies" / name
    assert run("classify", "--model", model_dir, path, "--fps", 2.5, "--window", 2, "--save_video", copy) == 0
    with av.open(str(copy)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == fps
    assert len(frames) == 12 and frames[0].shape == (40, 64, 3)
    # The label lies on black, where the noise was.
    assert (frames[0][6:14, 6:30] < 30).mean() > 0.5 > (frames[0][20:] < 30).mean()


def test_copies_keep_the_places_of_their_videos(model_dir, videos):  # noqa: F811
    assert run("classify", "--model", model_dir, videos, "--save_video", "copies") == 1
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
        (["videos", "--confidence", "1.5"], "--confidence: invalid confidence value: '1.5'"),
        (["videos", "--confidence", "sure"], "--confidence: invalid confidence value: 'sure'"),
        (["videos", "--max_seconds", "0"], "--max_seconds: invalid positive float value: '0'"),
        (["videos", "--engine", "tensorrt"], "argument --engine: invalid choice: 'tensorrt'"),
        (["videos", "--engine", "openvino", "--int8"], "engine='openvino'"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_classify_refuses_what_cannot_be(model_dir, videos, capsys, arguments, message, overwrite):  # noqa: F811
    Path("there.csv").write_text("precious")
    Path("empty").mkdir()
    if overwrite and "exists already" in message:
        return
    assert run("classify", "--model", model_dir, *arguments, *["--overwrite"] * overwrite) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert set(os.listdir()) == {"videos", "link.mp4", "hard.mp4", "there.csv", "empty"}
    assert Path("there.csv").read_text() == "precious"


def test_the_model_is_an_input_too(model_dir, videos, capsys):  # noqa: F811
    before = take_stock(model_dir)
    assert run("classify", "--model", model_dir, videos, "--output", model_dir / "config.json", "--overwrite") == 2
    assert "is the input" in capsys.readouterr().err
    assert take_stock(model_dir) == before


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.json", "scores.csv"])
def test_classify_goes_on_where_it_was_stopped(model_dir, videos, monkeypatch, capsys, name):  # noqa: F811
    arguments = ["--model", model_dir, "videos", "--save_video", "copies", "--output", name]
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
    good = ["videos/a/x.mkv", "videos/a/x.mp4", "videos/b/x.mp4"]
    assert [row["video"] for row in read(Path(name)) if not row.get("error")] == good
    assert Path("copies/a/x.mkv.mp4").stat() == first[0] and Path(name).read_text().startswith(first[1])

    # What is missing of a copy is made again, and no score twice.
    Path("copies/b/x.mp4").unlink()
    assert run("classify", *arguments) == 1 and len(read(Path(name))) == 4 and Path("copies/b/x.mp4").exists()
    assert run("classify", "--model", model_dir, "videos/a", "--output", name, "--top_k", 2, "--overwrite") == 0
    assert [row["video"] for row in read(Path(name))] == ["videos/a/x.mkv", "videos/a/x.mp4"]


def test_a_copy_that_cannot_be_written_costs_no_score(model_dir, videos, capsys):  # noqa: F811
    Path("copies/a").mkdir(parents=True)
    Path("copies/a/x.mp4").mkdir()
    arguments = [
        "--model",
        model_dir,
        "videos/a",
        "videos/b/x.mp4",
        "--save_video",
        "copies",
        "--output",
        "scores.json",
    ]
    assert run("classify", *arguments) == 1
    assert "copies/a/x.mp4 is not a file" in capsys.readouterr().err
    assert len(read(Path("scores.json"))) == 3
    assert Path("copies/a/x.mkv.mp4").is_file() and Path("copies/b/x.mp4").is_file()


def test_segments_of_a_list(model_dir, tmp_path):  # noqa: F811
    """Rows of a csv file are videos, parts of files too; what is beyond a file's end costs that row only."""
    write_video(tmp_path / "long.mp4", make_pictures(20))
    lines = ["video,start_sec,end_sec", "long.mp4,0.5,1", "long.mp4,1,", "long.mp4,1,9", "long.mp4,,"]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    assert run("classify", "--model", model_dir, tmp_path / "list.csv", "--output", tmp_path / "scores.jsonl") == 1
    first, second, beyond, whole = read(tmp_path / "scores.jsonl")
    assert [row["frames"] for row in (first, second, whole)] == [5, 10, 20]
    assert first["video"] == "long.mp4#t=0.5,1" and first["timeline"][0]["start_sec"] == 0
    assert "from 1.0 s to 9.0 s goes beyond the end, which is at 2.000 s" in beyond["error"]
