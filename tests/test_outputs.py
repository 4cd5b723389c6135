"""Tests of the files that commands write."""

import os
import unicodedata
from pathlib import Path

import pytest

from vtn_hf import outputs
from vtn_hf.outputs import check_outputs, name_outputs, remove_unfinished, writing, writing_folder


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    (tmp_path / "videos/a").mkdir(parents=True)
    (tmp_path / "videos/a/x.mp4").write_bytes(b"video")
    (tmp_path / "link").symlink_to(tmp_path / "videos/a")
    (tmp_path / "x.mp4").symlink_to(tmp_path / "videos/a/x.mp4")
    os.link(tmp_path / "videos/a/x.mp4", tmp_path / "hard.mp4")
    return tmp_path


@pytest.mark.parametrize("output", ["videos/a/x.mp4", "x.mp4", "hard.mp4", "link/x.mp4", "link/../a/x.mp4"])
@pytest.mark.parametrize("source", ["videos/a/x.mp4", "x.mp4", "hard.mp4", "link/x.mp4"])
def test_input_is_no_output(videos, output, source):
    with pytest.raises(ValueError, match=f"{output} is the input .*{source}"):
        check_outputs([videos / output], [videos / source], overwrite=True)


@pytest.mark.parametrize("output", ["videos", "videos/new.csv", "link/new.csv", "videos/a/b/c/new", "link/../new.csv"])
def test_nothing_is_written_into_an_input_folder(videos, output):
    with pytest.raises(ValueError, match="the input .*videos; inputs are never written to"):
        check_outputs([videos / output], [videos / "videos"], overwrite=True)


def test_other_outputs_are_fine(videos, monkeypatch):
    monkeypatch.chdir(videos)
    check_outputs(
        ["out.csv", "new/x.mp4", videos / "videos2/x.mp4", "videos/a/y.mp4"],
        ["videos/a/x.mp4", "https://host/x.mp4", "missing.mp4"],
    )
    (videos / "empty").mkdir()
    check_outputs(["empty"], ["videos"])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file/a/b would lie in .*/file, which is a file and not a folder"):
        check_outputs([tmp_path / "file/a/b"], overwrite=True)


def test_what_is_there_is_refused_or_overwritten(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file.csv", tmp_path / "folder/file"):
        path.write_text("precious")
    for output in (tmp_path / "file.csv", tmp_path / "folder"):
        with pytest.raises(FileExistsError, match=f"{output} exists already.*--overwrite"):
            check_outputs([output])
        check_outputs([output], overwrite=True)


def test_one_file_is_not_two_outputs(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="would be the same file"):
        check_outputs([tmp_path / "x.mp4", tmp_path / "a/../x.mp4"])
    check_outputs([tmp_path / "new/x.mp4", tmp_path / "new/X.mp4"])
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(outputs, "_ignores_case", lambda folder: True)
    with pytest.raises(ValueError, match="would be the same file"):
        check_outputs([tmp_path / "new/x.mp4", tmp_path / "new/X.mp4"])


@pytest.mark.parametrize(
    ("sources", "names"),
    [
        (["v/x.mp4"], ["x.mp4"]),
        (["v/a/x.mov", "v/b/x.mov"], ["a/x.mp4", "b/x.mp4"]),
        (["v/a/x.mp4", "v/a/x.mkv", "v/b/x.mp4"], ["a/x.mp4", "a/x.mkv.mp4", "b/x.mp4"]),
        (["x.avi", "x.mkv"], ["x.avi.mp4", "x.mkv.mp4"]),
        (["x.MP4", "x.mp4"], ["x.MP4.mp4", "x.mp4"]),
        (["x.mkv", "x.mp4", "x.mkv.mp4"], ["x.mkv.mp4", "x.mp4", "x.mkv.2.mp4"]),
        (["v/x.mp4", "v/../v/x.mp4"], ["x.mp4", "x.2.mp4"]),
        (["clip.2024", "clip.2025"], ["clip.2024.mp4", "clip.2025.mp4"]),
        (["a b/ü.mkv", "日本/x.mkv"], ["a b/ü.mp4", "日本/x.mp4"]),
        (["https://host/a/x.webm?key=1", "https://host/b/x.webm?key=2"], ["a/x.mp4", "b/x.mp4"]),
        (["https://host/watch?v=1", "https://host/watch?v=2"], ["watch.mp4", "watch.2.mp4"]),
        (["https://host/../../x.mkv"], ["x.mp4"]),
    ],
)
def test_names_keep_the_path_and_differ(sources, names):
    assert name_outputs(sources, ".mp4") == [Path(name) for name in names]


def test_names_begin_below_the_folder_that_was_searched():
    assert name_outputs(["videos/a/x.mkv"], ".mp4", roots=["videos"]) == [Path("a/x.mp4")]
    assert name_outputs(["u/a/x.mkv", "v/x.mkv"], ".mp4", roots=["u", "v"]) == [Path("u/a/x.mp4"), Path("v/x.mp4")]


def test_a_file_is_whole_or_not_there(tmp_path):
    path = tmp_path / "new/scores.csv"
    with writing(path) as unfinished:
        unfinished.write_text("whole")
        assert unfinished.parent == path.parent and not path.exists()
    assert path.read_text() == "whole"
    with pytest.raises(KeyboardInterrupt), writing(path) as unfinished:
        unfinished.write_text("ha")
        raise KeyboardInterrupt
    assert path.read_text() == "whole" and os.listdir(path.parent) == ["scores.csv"]


@pytest.mark.parametrize("name", ["x" * 251 + ".mp4", unicodedata.normalize("NFC", "ü") * 125 + ".mp4", "[a]*?.mp4"])
def test_any_name_can_be_written(tmp_path, name):
    with writing(tmp_path / name) as unfinished:
        unfinished.touch()
    assert os.listdir(tmp_path) == [name]
    killed = writing(tmp_path / name)
    killed.__enter__().touch()
    assert len(os.listdir(tmp_path)) == 2
    remove_unfinished(tmp_path / name)
    assert os.listdir(tmp_path) == [name]


def test_a_file_can_be_read_by_whom_other_files_can(tmp_path):
    (tmp_path / "other").touch()
    with writing(tmp_path / "file") as unfinished:
        unfinished.touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "scores.csv").symlink_to(tmp_path / "elsewhere/scores.csv")
    with writing(tmp_path / "scores.csv") as unfinished:
        unfinished.write_text("scores")
    assert (tmp_path / "scores.csv").is_symlink()
    assert (tmp_path / "elsewhere/scores.csv").read_text() == "scores"


def test_neither_folders_nor_devices_become_files(tmp_path):
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(ValueError, match=f"{path} is not a file"), writing(path):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is not a folder"), writing_folder(tmp_path / "file"):
        pass


def test_a_folder_is_whole_or_not_there(tmp_path):
    path = tmp_path / "exported"
    with pytest.raises(RuntimeError), writing_folder(path) as unfinished:
        (unfinished / "model.onnx").touch()
        raise RuntimeError
    assert os.listdir(tmp_path) == []
    path.mkdir()
    (path / "notes.txt").write_text("precious")
    (path / "model.onnx").write_text("old")
    with writing_folder(path) as unfinished:
        (unfinished / "onnx").mkdir()
        (unfinished / "onnx/weights").write_text("new")
        (unfinished / "model.onnx").write_text("new")
        assert (path / "model.onnx").read_text() == "old"
    files = {file.relative_to(path).as_posix(): file.read_text() for file in path.rglob("*") if file.is_file()}
    assert files == {"notes.txt": "precious", "model.onnx": "new", "onnx/weights": "new"}
    assert os.listdir(tmp_path) == ["exported"]
