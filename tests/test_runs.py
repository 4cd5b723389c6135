"""The folder of a run: what it remembers, what it refuses, and what it deletes."""

import json
import os
import subprocess
import sys

import pytest
from datasets import Dataset
from example_runs import take_stock

from vtn_hf.training.runs import Run, describe_videos, list_differences


SETTINGS = {"learning_rate": 0.1, "model_config": {"layers": [1, 2]}, "sizes": (3, 4)}


def begin(folder, settings=SETTINGS, notes=(), **kwargs):
    return Run(folder).begin(settings, dict(notes), **kwargs)


def test_the_same_settings_go_on_and_others_are_listed(tmp_path):
    assert begin(tmp_path, notes={"workers": 2}) == []
    assert begin(tmp_path, notes={"workers": 4}) == ["workers was 2, not 4"]
    assert begin(tmp_path, notes={"workers": 4}) == []
    before = take_stock(tmp_path)
    with pytest.raises(ValueError) as error:
        begin(tmp_path, {"learning_rate": 0.2, "model_config": {"layers": [1]}, "sizes": [3, 4]})
    assert "learning_rate was 0.1, not 0.2; model_config.layers was [1, 2], not [1]. " in str(error.value)
    assert take_stock(tmp_path) == before


def test_a_finished_run_is_known(tmp_path):
    run = Run(tmp_path / "run")
    assert not run.is_finished
    with run.locked():
        run.begin(SETTINGS, {})
        assert not run.is_finished
        run.finish()
    begin(tmp_path / "run")
    assert Run(tmp_path / "run").is_finished
    begin(tmp_path / "run", {"learning_rate": 1}, overwrite=True)
    assert not Run(tmp_path / "run").is_finished


def test_fields_of_other_versions_are_passed_over():
    assert list_differences({"a": 1, "old": 2}, {"a": 1, "new": 3}) == []


@pytest.mark.parametrize(
    "name", ["model.safetensors", "checkpoint-3/optimizer.pt", "config.json", "trainer_state.json"]
)
def test_what_nobody_remembers_is_refused(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("")
    with pytest.raises(ValueError, match=f"holds a model or a run .{name.split('/')[0]}. of which it is not known"):
        begin(tmp_path)
    assert (tmp_path / name).exists() and not (tmp_path / "run.json").exists()


OWN = (
    "checkpoint-12/model.safetensors",
    "_unfinished/checkpoint-13/a",
    "model-00001-of-00002.safetensors",
    "config.json",
)
OWN += ("modeling_vtn.py", "report/index.html", "coverage.json", "skipped_train.jsonl", "eval_results.json")
FOREIGN = ("train.log", "README.md", "checkpoint-best/a", "my_vtn.py", "report/notes.md", "train/a.mp4", "model.py")


def test_only_what_is_a_run_s_own_is_deleted(tmp_path):
    for name in FOREIGN:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    before = take_stock(tmp_path)
    begin(tmp_path)
    for name in OWN:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text(name)
    begin(tmp_path, {"learning_rate": 1.0}, overwrite=True)
    (tmp_path / "run.json").unlink()
    after = take_stock(tmp_path)
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in FOREIGN)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    code = "import sys, time; from vtn_hf.training.runs import Run\n"
    code += "with Run(sys.argv[1]).locked(): print('in', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        with pytest.raises(BlockingIOError, match="Another process is writing"), Run(tmp_path).locked():
            pass
        process.kill()
    with Run(tmp_path).locked():
        pass


def test_a_run_does_not_take_the_place_of_its_sources(tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "videos").mkdir()
    run = Run(tmp_path)
    run.check_sources({"data_dir": str(tmp_path / "videos"), "model_name_or_path": "some/model", "features": None})
    for source in (tmp_path, tmp_path / "checkpoint-4", os.path.relpath(tmp_path)):
        with pytest.raises(ValueError, match="--model_name_or_path .* is in the output_dir"):
            run.check_sources({"model_name_or_path": str(source)})


def test_which_checkpoint_a_run_goes_on_from(tmp_path):
    run, other = Run(tmp_path / "run"), str(tmp_path / "other/checkpoint-9")
    run.folder.mkdir()
    assert run.find_checkpoint() is None
    assert run.find_checkpoint(other) == other
    for step in (2, 10):
        (run.folder / f"checkpoint-{step}").mkdir()
    assert run.find_checkpoint() == run.find_checkpoint(other) == str(run.folder / "checkpoint-10")
    assert run.find_checkpoint(str(run.folder / "checkpoint-2")) == str(run.folder / "checkpoint-2")


def test_other_videos_and_other_labels_have_other_fingerprints():
    def describe(names, labels):
        return describe_videos(Dataset.from_dict({"name": names, "label": labels, "video": names}))

    first = describe(["a", "b"], [0, 1])
    assert first.startswith("2 videos ")
    assert first == describe(["a", "b"], [0, 1])
    others = {describe(["a", "c"], [0, 1]), describe(["a", "b"], [1, 0]), describe(["a", "b", "c"], [0, 1, 1])}
    assert len(others | {first}) == 4


def test_what_is_remembered_can_be_read(tmp_path):
    begin(tmp_path, notes={"torch": "2.13"})
    assert json.loads((tmp_path / "run.json").read_text()) == {
        "is_finished": False,
        "settings": {"learning_rate": 0.1, "model_config": {"layers": [1, 2]}, "sizes": [3, 4]},
        "notes": {"torch": "2.13"},
    }


def test_a_damaged_memory_is_named(tmp_path):
    begin(tmp_path)
    (tmp_path / "run.json").write_text('{"is_fin')
    with pytest.raises(ValueError, match="run.json is damaged .*; --overwrite begins anew"):
        begin(tmp_path)
    begin(tmp_path, overwrite=True)
