"""Training, run as a user runs them, on a few tiny clips."""

import json
from pathlib import Path

import example_runs
import pytest
from example_runs import as_flags, launch, make_launcher, run_process
from tiny_models import RESNET_VTN
from transformers import pipeline

from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNForVideoClassification


SETTINGS = example_runs.SETTINGS | {"max_steps": 2}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_motion_clips(tmp_path_factory.mktemp("clips") / "motion", num_train=20, num_val=10, num_workers=1)


@pytest.mark.parametrize("is_launched", [True, False])
def test_train_leaves_a_model_that_pipeline_loads(clips: Path, tmp_path: Path, is_launched: bool):
    """One process that a user launches, and two that share the work."""
    flags = [*as_flags(SETTINGS), "--data_dir", clips, "--output_dir", tmp_path / "model"]
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
    # Ten videos were evaluated, each once, whatever the number of processes.
    assert metrics["eval_top1"] * 10 == pytest.approx(round(metrics["eval_top1"] * 10))
    assert 0 <= metrics["eval_top1"] <= metrics["eval_top5"] <= 1
    video = next((clips / "val").glob("*/*.mp4"))
    predictions = pipeline("video-classification", model=str(tmp_path / "model"))(str(video), top_k=10)
    assert {prediction["label"] for prediction in predictions} == set(CLASS_NAMES)


def test_train_reads_a_yaml_file_and_flags_override_it(clips: Path, tmp_path: Path):
    settings = SETTINGS | {"model_config": RESNET_VTN, "max_steps": 1}
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


def test_train_continues_a_model_and_freezes_its_backbone(clips: Path, tmp_path: Path):
    launch(*as_flags(SETTINGS), "--data_dir", clips, "--output_dir", tmp_path / "first")
    settings = {
        name: value for name, value in SETTINGS.items() if name not in ("model_config", "resize_to", "crop_size")
    }
    settings |= {"model": tmp_path / "first", "freeze_backbone": "true"}
    launch(*as_flags(settings), "--data_dir", clips, "--output_dir", tmp_path / "second")

    first, second = (
        VTNForVideoClassification.from_pretrained(tmp_path / name).state_dict() for name in ("first", "second")
    )
    for name, tensor in first.items():
        if name.startswith("vtn.backbone."):
            assert tensor.equal(second[name]), name
    assert not first["classifier.out_proj.weight"].equal(second["classifier.out_proj.weight"])
