"""`vtn evaluate` on a few tiny clips."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from example_runs import make_launcher, run, run_process, take_stock
from video_files import write_shards

from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNConfig, VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.data.scan import scan_videos
from vtn_hf.model_card import make_model_card
from vtn_hf.results import one_run


ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = write_motion_clips(tmp_path_factory.mktemp("clips") / "motion", num_train=1, num_val=10, num_workers=1)
    (root / "val" / "growing" / "broken.mp4").write_bytes(b"no video")
    return root


@pytest.fixture
def model_dir(tmp_path):
    torch.manual_seed(0)
    backbone = {"model_type": "resnet", "embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
    config = VTNConfig(
        backbone_config=backbone,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        num_frames=8,
        id2label=dict(enumerate(CLASS_NAMES)),
    )
    VTNForVideoClassification(config).save_pretrained(tmp_path / "model")
    processor = VTNVideoProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, num_frames=8)
    processor.save_pretrained(tmp_path / "model")
    make_model_card(config, "tiny").save(tmp_path / "model" / "README.md")
    return tmp_path / "model"


def evaluate(model_dir, clips, output_dir, *arguments):
    """The results; of a mistake, use `fail`."""
    arguments = ("--model", model_dir, "--data_dir", clips, "--output_dir", output_dir, "--num_workers", 0, *arguments)
    assert run("evaluate", *arguments) == 0
    return json.loads((output_dir / "results.json").read_text())


def test_calibration_is_measured_and_stored(model_dir, clips, tmp_path, capsys):
    weights = (model_dir / "model.safetensors").read_bytes()
    results = evaluate(model_dir, clips, tmp_path / "results", "--calibrate")
    found = results["calibration"]
    config = VTNConfig.from_pretrained(model_dir)
    assert config.calibration_temperature == found["temperature"] != 1
    assert config.anytime_confidence == found["confidence"]
    assert found["accuracy_of_all_frames"] == pytest.approx(results["metrics"]["top1"])
    assert found["accuracy"] >= found["accuracy_of_all_frames"] - 0.005 and 0 < found["share_of_frames"] <= 1
    assert found["calibration_error_before"] == pytest.approx(results["metrics"]["calibration_error"], abs=1e-6)
    assert 0 <= found["calibration_error_after"] <= 1
    assert (model_dir / "model.safetensors").read_bytes() == weights
    plain = evaluate(model_dir, clips, tmp_path / "plain")
    assert plain["metrics"] == pytest.approx(results["metrics"], abs=1e-6)
    command = ("--model", model_dir, "--data_dir", clips, "--output_dir", tmp_path / "other", "--calibrate")
    for mistake in (("--num_clips", 2), ("--engine", "auto", "--no_optimize")):
        assert run("evaluate", *command, *mistake) == 2
        assert mistake[0] in capsys.readouterr().err


def list_files(folder):
    return {name: entry for name, entry in take_stock(folder).items() if name != "."}


def fail(capsys, model_dir, clips, output_dir, *arguments):
    """What is printed of a mistake, after which the exit status is not 0."""
    arguments = ("--model", model_dir, "--data_dir", clips, "--output_dir", output_dir, "--num_workers", 0, *arguments)
    assert run("evaluate", *arguments) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("vtn evaluate: error: ")
    return line


def test_whole_videos_are_scored_as_the_model_scores_them(model_dir, clips, tmp_path):
    results = evaluate(model_dir, clips, tmp_path / "results", "--update_card", "true")

    model = VTNForVideoClassification.from_pretrained(model_dir).eval()
    processor = VTNVideoProcessor.from_pretrained(model_dir)
    hits = 0
    for path in clips.glob("val/*/val_*.mp4"):
        with torch.no_grad():
            label = model(**processor(path, return_tensors="pt")).logits.argmax().item()
        hits += CLASS_NAMES[label] == path.parent.name
    assert results["metrics"]["top1"] == hits / 10
    assert 0 <= results["metrics"]["top1"] <= results["metrics"]["top5"] <= 1
    assert "whole videos in one pass, up to 8 frames" in results["protocol"]
    assert (results["num_videos"], results["num_decoded"]) == (11, 10)
    assert [Path(path).name for path in results["not_decoded"]] == ["broken.mp4"]
    assert results["parameters"] == model.num_parameters()
    assert results["multiply_adds_g_per_video"] > 0
    with (tmp_path / "results/report/confusion_matrix.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert [row[0] for row in table[1:]] == list(CLASS_NAMES)
    assert sum(int(count) for row in table[1:] for count in row[1:]) == 10
    page = (tmp_path / "results/report/index.html").read_text()
    assert '<svg class="attention"' in page and "90.9 % of 11 videos used; 0 missing, 1 could not be read" in page
    card = (model_dir / "README.md").read_text()
    assert "up to 8 frames" in card and "10 of 11 videos" in card and "task_type" not in card.split("---")[2]


def test_an_interrupted_run_goes_on(model_dir, clips, tmp_path, capsys):
    whole = evaluate(model_dir, clips, tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    scores = tmp_path / "cut/scores-000.jsonl"
    lines = scores.read_text().splitlines(keepends=True)
    scores.write_text("".join(lines[:4]) + lines[4][:20])
    arguments = ("--model", model_dir, "--data_dir", clips, "--output_dir", tmp_path / "cut", "--num_workers", 0)
    result = run_process("evaluate", *arguments, launcher=make_launcher(2))
    assert result.returncode == 0, result.stderr[-4000:]
    resumed = json.loads((tmp_path / "cut/results.json").read_text())
    assert resumed["metrics"] == pytest.approx(whole["metrics"])
    assert (resumed["num_videos"], resumed["num_processes"]) == (11, 2)


def test_other_settings_videos_and_weights_are_refused(model_dir, clips, tmp_path, capsys):
    first = evaluate(model_dir, clips, tmp_path / "results")
    before = list_files(tmp_path / "results")
    assert "was made with protocol" in fail(capsys, model_dir, clips, tmp_path / "results", "--num_clips", 2)
    fewer = shutil.copytree(clips, tmp_path / "fewer")
    (fewer / "val/growing/broken.mp4").unlink()
    assert "videos '11 videos" in fail(capsys, model_dir, fewer, tmp_path / "results")
    model = VTNForVideoClassification.from_pretrained(model_dir)
    torch.nn.init.constant_(model.classifier.out_proj.weight, 0)
    model.save_pretrained(model_dir)
    assert "weights '" in fail(capsys, model_dir, clips, tmp_path / "results")
    assert list_files(tmp_path / "results") == before
    second = evaluate(model_dir, clips, tmp_path / "results", "--overwrite")
    assert second["metrics"] != first["metrics"] and second["num_videos"] == 11


def test_a_run_that_never_began_is_not_remembered(model_dir, clips, tmp_path, capsys):
    assert "error: " in fail(capsys, model_dir, tmp_path / "nowhere", tmp_path / "results")
    assert "nosplit" in fail(capsys, model_dir, clips, tmp_path / "results", "--split", "nosplit")
    assert not (tmp_path / "results").exists()
    evaluate(model_dir, clips, tmp_path / "results")


def test_two_evaluations_at_once_in_one_folder(model_dir, clips, tmp_path, capsys):
    (tmp_path / "results").mkdir()
    with one_run(tmp_path / "results"):
        assert "Another process is writing" in fail(capsys, model_dir, clips, tmp_path / "results")


def test_too_few_readable_videos_give_no_result(model_dir, clips, tmp_path, capsys):
    damaged = shutil.copytree(clips, tmp_path / "damaged")
    originals = sorted(damaged.glob("val/*/val_*.mp4"))
    contents = {path: path.read_bytes() for path in originals[:6]}
    for path in contents:
        path.write_bytes(b"no video")
    assert "Only 4 of 11 videos of val" in fail(capsys, model_dir, damaged, tmp_path / "results")
    assert not (tmp_path / "results/results.json").exists()
    assert evaluate(model_dir, damaged, tmp_path / "results", "--min_coverage", 0.3)["num_decoded"] == 4
    # What failed is tried again.
    for path, content in contents.items():
        path.write_bytes(content)
    assert evaluate(model_dir, damaged, tmp_path / "results")["num_decoded"] == 10


def test_a_model_that_is_not_finite_has_no_accuracy(model_dir, clips, tmp_path, capsys):
    model = VTNForVideoClassification.from_pretrained(model_dir)
    torch.nn.init.constant_(model.classifier.out_proj.bias, float("nan"))
    model.save_pretrained(model_dir)
    assert "it has no accuracy" in fail(capsys, model_dir, clips, tmp_path / "results")
    assert not (tmp_path / "results/results.json").exists()


def test_shards_and_what_a_scan_found_to_be_bad(model_dir, clips, tmp_path):
    whole = evaluate(model_dir, clips, tmp_path / "whole")
    list(scan_videos([str(path) for path in clips.glob("*/*/*.mp4")], tmp_path / "scan.csv"))
    scanned = evaluate(model_dir, clips, tmp_path / "scanned", "--scan_table", tmp_path / "scan.csv")
    sharded = evaluate(model_dir, write_shards(clips, tmp_path / "shards"), tmp_path / "sharded")

    for results in (scanned, sharded):
        assert results["metrics"] == pytest.approx(whole["metrics"])
        assert (results["num_videos"], results["num_decoded"]) == (11, 10)
    assert scanned["not_decoded"].keys() == whole["not_decoded"].keys()
    assert sharded["not_decoded"].keys() == {"broken"}
    assert "broken" not in "".join(path.read_text() for path in (tmp_path / "scanned").glob("scores-*.jsonl"))


def test_views_are_averaged(model_dir, clips, tmp_path):
    views = ("--num_clips", 2, "--num_crops", 3, "--clip_num_frames", 4, "--clip_duration_sec", 0.5)
    results = evaluate(model_dir, clips, tmp_path / "results", *views)
    assert "2 clips x 3 crops of 16 x 16, 4 frames over 0.5 s" in results["protocol"]
    assert results["num_decoded"] == 10


def test_videos_with_several_labels_are_ranked(model_dir, clips, tmp_path):
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))
    rows = [f"{path},{path.parent.name};growing" for path in sorted(clips.glob("val/*/val_*.mp4"))]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "val.csv").write_text("\n".join(["video,labels", *rows]) + "\n")
    results = evaluate(model_dir, tmp_path / "labels", tmp_path / "results")
    assert set(results["metrics"]) == {"map"}
    # Every video is "growing", which therefore counts 1 of the ten averages, and every other class is one of ten.
    assert 0.19 <= results["metrics"]["map"] <= 1
    scores = [json.loads(line) for line in (tmp_path / "results/scores-000.jsonl").read_text().splitlines()]
    assert not any(sum(row["probabilities"]) == pytest.approx(1, abs=1e-3) for row in scores)
