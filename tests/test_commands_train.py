"""`vtn train` on collections as they are: damaged, incomplete, with several labels, in shards."""

import csv
import html
import json
import shutil
from pathlib import Path

import pytest
from example_runs import SETTINGS, as_flags, launch, make_launcher, run_process, take_stock
from tiny_models import RESNET_VTN
from transformers import pipeline
from video_files import write_shards

from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNForVideoClassification
from vtn_hf.commands import train as train_script
from vtn_hf.data.coverage import NO_LABEL
from vtn_hf.data.scan import scan_videos
from vtn_hf.training.runs import Run


SHORT = SETTINGS | {"max_steps": 2}


def train(data_dir, output_dir, **settings):
    settings = SETTINGS | settings | {"data_dir": data_dir, "output_dir": output_dir}
    return train_script.train(*train_script.parse_arguments(as_flags(settings)))


def read_json(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def original_clips(tmp_path_factory):
    return write_motion_clips(tmp_path_factory.mktemp("clips") / "clips", num_train=40, num_val=20, num_workers=1)


@pytest.fixture
def clips(original_clips, tmp_path):
    return shutil.copytree(original_clips, tmp_path / "clips")


def test_a_damaged_collection_trains_to_the_end(clips, tmp_path, capsys):
    # Three of sixty: cut short, empty, something else.
    train_clips, val_clips = (sorted((clips / split).glob("*/*.mp4")) for split in ("train", "val"))
    train_clips[7].write_bytes(train_clips[7].read_bytes()[:5000])
    train_clips[23].write_bytes(b"")
    val_clips[11].write_bytes(b"not a video at all" * 1000)
    trainer = train(clips, tmp_path / "run", dataloader_num_workers=2)

    assert trainer.state.global_step == 20
    coverage = read_json(tmp_path / "run/coverage.json")
    damaged = {split: [Path(video["video"]) for video in part["damaged"]] for split, part in coverage.items()}
    assert damaged == {
        "train": sorted(path.relative_to(clips) for path in (train_clips[7], train_clips[23])),
        "val": [val_clips[11].relative_to(clips)],
    }
    # Once in each epoch.
    assert [video["times"] for video in coverage["train"]["damaged"]] == [2, 2]
    assert all(video["reason"] for part in coverage.values() for video in part["damaged"])
    assert (coverage["train"]["used"], coverage["train"]["annotated"], coverage["train"]["coverage"]) == (38, 40, 0.95)
    assert coverage["val"]["coverage"] == 0.95
    # Coverage stands beside every accuracy, and what was not read counts in neither of its parts.
    metrics = read_json(tmp_path / "run/eval_results.json")
    assert metrics["eval_coverage"] == 0.95
    losses = [trainer.evaluate([each])["eval_loss"] for each in trainer.eval_dataset if each["labels"] != NO_LABEL]
    assert metrics["eval_loss"] == pytest.approx(sum(losses) / 19, rel=1e-4)
    assert metrics["eval_top1"] * 19 == pytest.approx(round(metrics["eval_top1"] * 19))
    printed = capsys.readouterr().out
    assert "train: 95.0% of 40 videos used, 0 missing, 2 damaged" in printed
    assert "95.0%" in (tmp_path / "run/README.md").read_text()
    report = (tmp_path / "run/report/index.html").read_text()
    assert '<svg class="attention"' in report
    assert all(str(path) in report for paths in damaged.values() for path in paths)


def fail(capsys, data_dir, output_dir, **settings) -> str:
    """What is printed of a mistake: one line, after which the exit status is not 0."""
    settings = SETTINGS | settings | {"data_dir": data_dir} | ({"output_dir": output_dir} if output_dir else {})
    capsys.readouterr()
    assert train_script.main(as_flags(settings)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("vtn train: error: ")
    return line


def test_a_run_without_a_folder_is_refused(clips, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Give --output_dir" in fail(capsys, clips, None)
    assert [path.name for path in tmp_path.iterdir()] == ["clips"]


def test_clips_of_any_length_in_between(clips, tmp_path, capsys):
    train(clips, tmp_path / "run", max_steps=2, clip_num_frames=[2, 5])
    assert train(clips, tmp_path / "run", max_steps=2, clip_num_frames=[2, 5]) is None
    assert "is finished" in capsys.readouterr().out
    message = fail(capsys, clips, tmp_path / "run", max_steps=2, clip_num_frames=[2, 6])
    assert "clip_num_frames was [2, 5], not [2, 6]" in message
    for mistake in ([5, 2], [1, 2, 3]):
        assert "clip" in fail(capsys, clips, tmp_path / "other", max_steps=2, clip_num_frames=mistake)


def test_a_used_folder_is_finished_gone_on_with_or_refused(clips, tmp_path, capsys):
    run = tmp_path / "run"
    train(clips, run, max_steps=2)
    before = take_stock(run)
    capsys.readouterr()
    assert train(clips, run, max_steps=2, dataloader_num_workers=1) is None
    printed = capsys.readouterr().out
    assert f"{run} is finished; nothing is left to do." in printed
    assert "Going on, although dataloader_num_workers was 0, not 1." in printed
    assert set(changed(run, before)) == {"run.json"}

    before = take_stock(run)
    message = fail(capsys, clips, run, max_steps=2, learning_rate=0.1, clip_num_frames=2, crop_size=8)
    assert "learning_rate was 5e-05, not 0.1" in message
    assert "clip_num_frames was 4, not 2" in message
    assert "processor.crop_size.height was 16, not 8" in message
    assert "--overwrite" in message and "; max_steps" not in message
    # Other videos, and other classes.
    others = write_motion_clips(tmp_path / "others", num_train=10, num_val=10, num_workers=1)
    message = fail(capsys, others, run, max_steps=2)
    assert "videos was ['train: 40 videos" in message and "not ['train: 10 videos" in message
    for split in ("train", "val"):
        (others / split / CLASS_NAMES[0]).rename(others / split / "renamed")
    assert "classes was [" in fail(capsys, others, run, max_steps=2)
    assert changed(run, before) == []

    (run / "mine.txt").write_text("mine")
    trainer = train(others, run, max_steps=1, learning_rate=0.1, overwrite="true")
    assert trainer.state.global_step == 1
    assert "renamed" in VTNForVideoClassification.from_pretrained(run).config.label2id
    assert (run / "mine.txt").read_text() == "mine"


def changed(folder, before):
    after = take_stock(folder)
    return [name for name in before.keys() | after.keys() if before.get(name) != after.get(name) and name != "."]


def test_two_runs_at_once_in_one_folder(clips, tmp_path, capsys):
    with Run(tmp_path / "run").locked():
        assert "Another process is writing" in fail(capsys, clips, tmp_path / "run")


def test_a_model_is_not_overwritten_by_what_is_made_from_it(clips, tmp_path, capsys):
    train(clips, tmp_path / "run", max_steps=1)
    before = take_stock(tmp_path / "run")
    settings = {"model": tmp_path / "run", "model_config": "{}", "overwrite": "true"}
    assert "is in the output_dir" in fail(capsys, clips, tmp_path / "run", **settings)
    assert changed(tmp_path / "run", before) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_collection_that_cannot_be_read_stops_the_training(clips, tmp_path, capsys, num_workers):
    for path in clips.glob("*/*/*.mp4"):
        path.write_bytes(b"no video")
    settings = {"num_train_epochs": 20, "dataloader_num_workers": num_workers}
    assert "Only 0 of " in fail(capsys, clips, tmp_path / "run", **settings)
    assert not (tmp_path / "run/config.json").exists()
    # A small one after its first epoch.
    assert "Only 0 of 40 training videos could" in fail(
        capsys, clips, tmp_path / "small", per_device_train_batch_size=40, **settings
    )


def test_less_than_half_readable_stops_the_training_and_the_evaluation(clips, tmp_path, capsys):
    for split, number in (("train", 21), ("val", 11)):
        for path in sorted((clips / split).glob("*/*.mp4"))[:number]:
            path.write_bytes(b"no video")
    assert "Only 19 of 40 training videos could be read" in fail(capsys, clips, tmp_path / "run")
    settings = {"min_coverage": 0.46, "overwrite": "true"}
    assert "Only 9 of 20 videos to evaluate on" in fail(capsys, clips, tmp_path / "run", **settings)
    train(clips, tmp_path / "run", min_coverage=0.45)


def test_annotated_videos_that_are_missing_count(clips, tmp_path, capsys):
    def make_lines(paths):
        return [*(f"{path} 0\n" for path in paths), *(f"gone/{number}.mp4 1\n" for number in range(len(paths) + 1))]

    root = write_csv(clips, tmp_path / "csv", make_lines)
    assert "Only 40 of 81 videos of train could be read" in fail(capsys, root, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_training(clips, tmp_path, capsys):
    message = fail(capsys, clips, tmp_path / "run", learning_rate=1e30, max_grad_norm=0)
    assert "The loss of step 2 is nan" in message


def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(clips, tmp_path, capsys):
    settings = {"save_strategy": "steps", "save_steps": 3, "max_steps": 6}
    train(clips, tmp_path / "run", **settings)
    run = read_json(tmp_path / "run/run.json")
    (tmp_path / "run/run.json").write_text(json.dumps(run | {"is_finished": False}))
    (tmp_path / "run/checkpoint-6/optimizer.pt").unlink()
    message = fail(capsys, clips, tmp_path / "run", **settings)
    assert "checkpoint-6/optimizer.pt is missing" in message
    assert f"{tmp_path}/run/checkpoint-3, before it, is whole" in message
    train(clips, tmp_path / "run", **settings, resume_from_checkpoint=tmp_path / "run/checkpoint-3")
    assert read_json(tmp_path / "run/run.json")["is_finished"]


def write_csv(clips, root, make_lines):
    root.mkdir()
    for split in ("train", "val"):
        (root / f"{split}.csv").write_text("".join(make_lines(sorted((clips / split).glob("*/*.mp4")))))
    return root


def test_missing_videos_are_counted_and_kinetics_labels_complete(clips, tmp_path):
    def make_lines(paths):
        return [*(f"{path} {number % 400}\n" for number, path in enumerate(paths)), "gone/a b.mp4 399\n"]

    root = write_csv(clips, tmp_path / "csv", make_lines)
    train(root, tmp_path / "run", max_steps=1, class_names="kinetics400")
    coverage = read_json(tmp_path / "run/coverage.json")
    assert coverage["train"]["missing"] == coverage["val"]["missing"] == ["gone/a b.mp4"]
    assert coverage["val"]["coverage"] == 20 / 21
    assert read_json(tmp_path / "run/eval_results.json")["eval_coverage"] == 20 / 21
    labels = VTNForVideoClassification.from_pretrained(tmp_path / "run").config.id2label
    assert (len(labels), labels[0], labels[399]) == (400, "abseiling", "zumba")


@pytest.mark.parametrize("mixup_alpha", [0.0, 0.8])
def test_several_labels_per_video(clips, tmp_path, mixup_alpha):
    def make_lines(paths):
        names = (path.parent.name for path in paths)
        return ["video,labels\n", *(f"{path},{name};motion\n" for path, name in zip(paths, names, strict=True))]

    root = write_csv(clips, tmp_path / "csv", make_lines)
    val = sorted((clips / "val").glob("*/*.mp4"))
    val[3].write_bytes(b"")
    train(root, tmp_path / "run", max_steps=2, mixup_alpha=mixup_alpha)
    config = VTNForVideoClassification.from_pretrained(tmp_path / "run").config
    assert config.problem_type == "multi_label_classification"
    assert set(config.id2label.values()) == {*CLASS_NAMES, "motion"}
    metrics = read_json(tmp_path / "run/eval_results.json")
    assert 0 < metrics["eval_map"] <= 1
    assert metrics["eval_coverage"] == 0.95


@pytest.fixture
def shards(clips, tmp_path):
    """The clips in two shards per split."""
    return write_shards(clips, tmp_path / "shards")


def test_shards_are_streamed(shards, tmp_path):
    trainer = train(shards, tmp_path / "run", max_steps=12, dataloader_num_workers=2)
    # 40 videos are ten batches, then they come again.
    assert trainer.state.global_step == 12
    metrics = read_json(tmp_path / "run/eval_results.json")
    assert metrics["eval_top1"] * 20 == pytest.approx(round(metrics["eval_top1"] * 20))
    assert metrics["eval_coverage"] == 1.0
    assert read_json(tmp_path / "run/coverage.json")["train"]["coverage"] is None


def test_two_processes_share_the_shards(shards, tmp_path):
    settings = SETTINGS | {"data_dir": shards, "output_dir": tmp_path / "run", "max_steps": 7, "seed": 1}
    # Traces the videos that each process reads to train on.
    script = tmp_path / "traced.py"
    script.write_text(
        "import os, sys\n"
        "from vtn_hf.commands import train\n"
        "from vtn_hf.data.clips import ClipTransform\n"
        "load = ClipTransform._load_clips\n"
        f"log = open({str(tmp_path)!r} + '/read' + os.environ['RANK'], 'a', buffering=1)\n"
        "def traced(self, source, name, *rest): log.write(name + '\\n'); return load(self, source, name, *rest)\n"
        "ClipTransform._load_clips = traced\n"
        "sys.exit(train.main())\n"
    )
    launch(*as_flags(settings), script=script, num_processes=2)
    names = [(tmp_path / f"read{rank}").read_text().split() for rank in range(2)]
    # Twenty videos in each shard are five batches, then they come again; one shard each, none in common.
    assert [len(set(each)) for each in names] == [20, 20]
    assert not set(names[0]) & set(names[1])
    # 20 videos in rounds of 8: each counts once, and so does each class.
    with open(tmp_path / "run/report/confusion_matrix.csv", newline="") as file:
        assert [sum(map(int, counts)) for _, *counts in list(csv.reader(file))[1:]] == [2] * 10
    assert read_json(tmp_path / "run/eval_results.json")["eval_coverage"] == 1.0
    assert read_json(tmp_path / "run/coverage.json")["val"]["used"] == 20


def test_what_a_scan_found_to_be_bad_is_left_out_and_listed(clips, tmp_path):
    bad = {split: sorted((clips / split).glob("*/*.mp4"))[3] for split in ("train", "val")}
    for path in bad.values():
        path.write_bytes(b"not a video")
    list(scan_videos([str(path) for path in clips.glob("*/*/*.mp4")], tmp_path / "scan.csv"))
    bad["train"].unlink()
    train(clips, tmp_path / "run", max_steps=1, scan_table=tmp_path / "scan.csv")

    coverage = read_json(tmp_path / "run/coverage.json")
    assert (coverage["train"]["annotated"], coverage["train"]["damaged"]) == (39, [])
    assert (coverage["val"]["annotated"], coverage["val"]["used"]) == (20, 19)
    (video,) = coverage["val"]["damaged"]
    assert (clips / video["video"], video["times"]) == (bad["val"], 0)
    assert video["reason"]
    assert read_json(tmp_path / "run/eval_results.json")["eval_coverage"] == 0.95
    report = (tmp_path / "run/report/index.html").read_text()
    assert f"<b>{video['video']}</b>: {html.escape(video['reason'])}" in report


def test_without_val(clips, tmp_path, capsys):
    shutil.rmtree(clips / "val")
    settings = {"eval_strategy": "epoch", "num_train_epochs": 1}
    with pytest.raises(ValueError, match="clips has no val split to evaluate on: give --val_share 0.2"):
        train(clips, tmp_path / "run", **settings)
    train(clips, tmp_path / "run", val_share=0.2, **settings)
    printed = capsys.readouterr().out
    assert "videos are held out as val (val_seed=0)" in printed
    coverage = read_json(tmp_path / "run/coverage.json")
    assert 4 <= coverage["val"]["used"] <= 14
    assert coverage["train"]["used"] + coverage["val"]["used"] == 40
    assert read_json(tmp_path / "run/eval_results.json")["eval_coverage"] == 1


def test_without_val_and_without_evaluation(clips, tmp_path):
    shutil.rmtree(clips / "val")
    train(clips, tmp_path / "run", max_steps=1)
    assert not (tmp_path / "run/eval_results.json").exists()


def test_wrong_classes_are_said_before_training(clips, tmp_path, capsys):
    first, second, *_ = CLASS_NAMES
    (clips / "train" / first.upper()).mkdir()
    shutil.copy(next(clips.glob(f"train/{first}/*.mp4")), clips / "train" / first.upper())
    with pytest.raises(ValueError, match=f"folders that are spelt in several ways: '{first.upper()}'"):
        train(clips, tmp_path / "run")
    shutil.rmtree(clips / "train" / first.upper())
    (clips / "val" / second).rename(clips / "val/another")
    with pytest.raises(ValueError, match="val shows classes of which train has no video: another"):
        train(clips, tmp_path / "run")
    assert "another" in capsys.readouterr().out
    assert not (tmp_path / "run/model.safetensors").exists()


@pytest.mark.parametrize("is_launched", [True, False])
def test_train_leaves_a_model_that_pipeline_loads(clips, tmp_path, is_launched):
    """One process that a user launches, and two that share the work."""
    flags = [*as_flags(SHORT), "--data_dir", clips, "--output_dir", tmp_path / "model"]
    if is_launched:
        result = run_process("train", *flags, launcher=make_launcher(1))
        assert result.returncode == 0, result.stderr[-4000:]
        printed = result.stdout
    else:
        printed = launch(*flags, num_processes=2)

    model = VTNForVideoClassification.from_pretrained(tmp_path / "model")
    assert f"Training {model.num_parameters():,} of {model.num_parameters():,} parameters" in printed
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "video_preprocessor_config.json",
        "README.md",
    }
    metrics = json.loads((tmp_path / "model/eval_results.json").read_text())
    # Twenty videos were evaluated, each once, whatever the number of processes.
    assert metrics["eval_top1"] * 20 == pytest.approx(round(metrics["eval_top1"] * 20))
    assert 0 <= metrics["eval_top1"] <= metrics["eval_top5"] <= 1
    video = next((clips / "val").glob("*/*.mp4"))
    predictions = pipeline("video-classification", model=str(tmp_path / "model"))(str(video), top_k=10)
    assert {prediction["label"] for prediction in predictions} == set(CLASS_NAMES)


def test_train_reads_a_yaml_file_and_flags_override_it(clips, tmp_path):
    settings = SHORT | {"model_config": RESNET_VTN, "max_steps": 1}
    (tmp_path / "settings.yaml").write_text("\n".join(f"{name}: {value!r}" for name, value in settings.items()))
    launch(
        "--recipe",
        tmp_path / "settings.yaml",
        "--data_dir",
        clips,
        "--output_dir",
        tmp_path / "model",
        "--max_steps",
        3,
    )

    state = json.loads((tmp_path / "model/trainer_state.json").read_text())
    assert state["global_step"] == 3
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["backbone_config"]["hidden_sizes"] == [4, 8]


def test_train_continues_a_model_and_freezes_its_backbone(clips, tmp_path):
    launch(*as_flags(SHORT), "--data_dir", clips, "--output_dir", tmp_path / "first")
    settings = {name: value for name, value in SHORT.items() if name not in ("model_config", "resize_to", "crop_size")}
    settings |= {"model": tmp_path / "first", "freeze_backbone": "true"}
    launch(*as_flags(settings), "--data_dir", clips, "--output_dir", tmp_path / "second")

    first, second = (
        VTNForVideoClassification.from_pretrained(tmp_path / name).state_dict() for name in ("first", "second")
    )
    for name, tensor in first.items():
        if name.startswith("vtn.backbone."):
            assert tensor.equal(second[name]), name
    assert not first["classifier.out_proj.weight"].equal(second["classifier.out_proj.weight"])
