"""examples/train.py on collections as they are: damaged, incomplete, with several labels, in shards."""

import csv
import html
import json
import sys
from pathlib import Path

import pytest
from example_runs import EXAMPLES, SETTINGS, as_flags, launch
from video_files import write_shards

from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNForVideoClassification
from vtn_hf.data.coverage import NO_LABEL
from vtn_hf.data.scan import scan_videos


sys.path.insert(0, str(EXAMPLES))

import train as train_script  # noqa: E402


def train(data_dir, output_dir, **settings):
    settings = SETTINGS | settings | {"data_dir": data_dir, "output_dir": output_dir}
    return train_script.train(*train_script.parse_arguments(as_flags(settings)))


def read_json(path):
    return json.loads(path.read_text())


@pytest.fixture
def clips(tmp_path):
    return write_motion_clips(tmp_path / "clips", num_train=40, num_val=20, num_workers=1)


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


def test_a_new_run_forgets_what_an_older_one_skipped(clips, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/skipped_train.jsonl").write_text('{"video": "old.mp4", "reason": "old"}\n')
    train(clips, tmp_path / "run", max_steps=1)
    assert read_json(tmp_path / "run/coverage.json")["train"]["damaged"] == []


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
        f"import os, sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "import train\n"
        "load = train.ClipTransform._load_clips\n"
        f"log = open({str(tmp_path)!r} + '/read' + os.environ['RANK'], 'a', buffering=1)\n"
        "def traced(self, source, name): log.write(name + '\\n'); return load(self, source, name)\n"
        "train.ClipTransform._load_clips = traced\n"
        "train.train(*train.parse_arguments(sys.argv[1:]))\n"
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
