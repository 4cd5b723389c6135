"""The scripts that a user copies, on a few tiny clips: short, and they do what they say."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from example_runs import ROOT, forget_processes, make_launcher, run, run_process
from tiny_models import RESNET_VTN
from transformers import Dinov2Config, Dinov2Model, pipeline

from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNVideoProcessor


EXAMPLES = ROOT / "examples"
SCRIPTS = ("train", "classify", "evaluate", "stream", "extract_features")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips, one of which is damaged."""
    root = write_motion_clips(tmp_path_factory.mktemp("clips") / "motion", num_train=20, num_val=10, num_workers=1)
    path = sorted(root.glob("val/*/*.mp4"))[7]
    path.write_bytes(path.read_bytes()[:500])
    return root


@pytest.fixture(scope="module")
def trained(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What examples/train.py leaves, launched as a user launches it."""
    output_dir = tmp_path_factory.mktemp("run") / "RUN"
    settings = {
        "model_config": RESNET_VTN,
        "resize_to": 16,
        "crop_size": 16,
        "num_frames": 8,
        "max_steps": 2,
        "report_to": "none",
        "use_cpu": True,
    }
    recipe = output_dir.parent / "recipe.yaml"
    recipe.write_text("\n".join(f"{name}: {value!r}" for name, value in settings.items()))
    flags = [recipe, "--data_dir", clips, "--output_dir", output_dir, "--clip_num_frames", 4, "--save_steps", 1]
    result = run_process(EXAMPLES / "train.py", *flags, launcher=make_launcher(1))
    assert result.returncode == 0, result.stderr[-4000:]
    return output_dir


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short(name: str):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 100


def test_train_leaves_a_model_that_pipeline_loads(clips: Path, trained: Path):
    assert json.loads((trained / "checkpoint-2/trainer_state.json").read_text())["global_step"] == 2
    assert json.loads((trained / "eval_results.json").read_text())["eval_coverage"] == 0.9
    assert "val" in (trained / "skipped_val.jsonl").read_text()
    video = sorted(clips.glob("val/*/*.mp4"))[0]
    predictions = pipeline("video-classification", model=str(trained))(str(video), top_k=10)
    assert {prediction["label"] for prediction in predictions} == set(CLASS_NAMES)
    assert "base_model" not in (trained / "README.md").read_text()


def test_the_other_scripts(clips: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    import classify
    import stream

    classify_status = classify.main([str(trained), str(clips / "val"), "--output", str(tmp_path / "scores.jsonl")])
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert classify_status == 1 and len(rows) == 9 and all(len(row["scores"]) == 5 for row in rows)
    assert rows[0]["timeline"][0]["start_sec"] == 0
    capsys.readouterr()
    stream.main([str(trained), rows[0]["video"]])
    printed = capsys.readouterr().out
    assert " frames read, " in printed and any(name in printed for name in CLASS_NAMES)


def test_evaluate_beside_the_library_of_its_name(clips: Path, trained: Path, tmp_path: Path):
    flags = ["--model", trained, "--data_dir", clips, "--output_dir", tmp_path / "results"]
    result = run_process(EXAMPLES / "evaluate.py", *flags)
    assert result.returncode == 0, result.stderr[-4000:]
    metrics = json.loads((tmp_path / "results/results.json").read_text())
    assert metrics["coverage"] == 0.9 and len(metrics["not_decoded"]) == 1
    assert metrics["top1"] * 9 == pytest.approx(round(metrics["top1"] * 9))

    code = "import evaluate, sys; from vtn_hf.training import metrics; print(evaluate.combine, sys.path[0])"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, 'examples'); {code}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert result.returncode == 0, result.stderr
    assert "function combine" in result.stdout and result.stdout.split()[-1] == "examples"


def test_features_train(clips: Path, tmp_path: Path):
    import extract_features

    backbone = tmp_path / "backbone"
    sizes = {"size": {"height": 16, "width": 16}, "crop_size": {"height": 16, "width": 16}}
    Dinov2Model(
        Dinov2Config(hidden_size=24, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    ).save_pretrained(backbone)
    VTNVideoProcessor(**sizes).save_pretrained(backbone)
    flags = ["--data_dir", clips, "--backbone_name_or_path", backbone, "--output_dir", tmp_path / "features"]
    for _ in range(2):  # the second time there is nothing to do
        extract_features.main([str(flag) for flag in flags])
    forget_processes()
    flags = ["--features", tmp_path / "features", "--output_dir", tmp_path / "run", "--max_steps", 1]
    config = json.dumps({"num_attention_heads": 4, "intermediate_size": 8, "num_hidden_layers": 1})
    assert run("train", *flags, "--model_config", config, "--device", "cpu", "--report_to", "none") == 0
    assert json.loads((tmp_path / "run/coverage.json").read_text())["val"]["coverage"] == 0.9
