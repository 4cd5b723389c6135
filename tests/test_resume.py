"""Stop and go on: killed runs continue to the same weights, and what fails to be saved destroys nothing."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from pkgutil import resolve_name

import pytest
import torch
from example_runs import EXAMPLES, ROOT, SETTINGS, as_flags, make_launcher
from safetensors.torch import load_file
from tiny_models import make_vit_vtn
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from drawn_videos.motion_clips import write_motion_clips
from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.training.trainer import VTNTrainer


class Clips(torch.utils.data.Dataset):
    """Pixels of clips, without videos; dropout makes the training random."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(4, 3, 16, 16, generator=generator), "labels": torch.tensor(index % 2)}


def make_trainer(output_dir: Path, compute_metrics=None, seed: int = 0, **arguments) -> VTNTrainer:
    """With a ViT, whose weights have other names in files; `seed` is that of its first weights."""
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1}
    settings |= {"logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-2} | arguments
    return VTNTrainer(
        model=make_vit_vtn(seed, num_labels=2),
        args=TrainingArguments(str(output_dir), **settings),
        train_dataset=Clips(),
        eval_dataset=Clips(),
        processing_class=VTNVideoProcessor(),
        compute_metrics=compute_metrics,
    )


def read_module_weights(folder: Path) -> dict[str, torch.Tensor]:
    return VTNForVideoClassification.from_pretrained(folder).state_dict()


def assert_same_weights(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]):
    assert first.keys() == second.keys()
    assert [name for name in first if not first[name].equal(second[name])] == []


@pytest.mark.parametrize("step", [1, 4, 6])
def test_any_checkpoint_leads_to_the_same_weights(tmp_path: Path, step: int):
    whole = make_trainer(tmp_path / "run")
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", seed=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / f"run/checkpoint-{step}"))

    assert_same_weights(whole.model.state_dict(), resumed.model.state_dict())
    curves = [
        [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        for trainer in (whole, resumed)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 12


@pytest.mark.parametrize(
    ("target", "file"),
    [
        ("transformers.modeling_utils.safe_save_file", "model.safetensors"),
        ("torch.save", "optimizer.pt"),
        ("torch.save", "rng_state.pth"),
        ("transformers.trainer.TrainerState.save_to_json", "trainer_state.json"),
    ],
)
def test_a_failed_save_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch, target: str, file: str):
    """As on a full disk: half of a file is written, then there is no more space."""
    trainer = make_trainer(tmp_path, save_total_limit=1)
    original = resolve_name(target)

    def fail_at_step_3(*args, **kwargs):
        path = next(Path(arg) for arg in args if isinstance(arg, (str, Path)))
        if path.parts[-2:] != ("checkpoint-3", file):
            return original(*args, **kwargs)
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(target, fail_at_step_3)
    with pytest.raises(OSError, match="No space left"):
        trainer.train()

    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
    monkeypatch.undo()
    resumed = make_trainer(tmp_path, seed=1)
    resumed.train(resume_from_checkpoint=True)
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    assert_same_weights(whole.model.state_dict(), resumed.model.state_dict())


def test_a_checkpoint_that_was_being_written_is_not_the_last_one(tmp_path: Path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(self, output_dir):
        # What a killed process does not do.
        monkeypatch.setattr("vtn_hf.training.trainer.shutil.rmtree", lambda *args, **kwargs: None)
        raise Killed

    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.train()
    monkeypatch.setattr(Trainer, "_save_rng_state", kill)
    with pytest.raises(Killed):
        make_trainer(tmp_path, max_steps=4).train(resume_from_checkpoint=True)
    monkeypatch.undo()

    assert (tmp_path / "_unfinished/checkpoint-3/model.safetensors").exists()
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-2")
    make_trainer(tmp_path, max_steps=4).train(resume_from_checkpoint=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]


def test_the_best_checkpoint_is_kept_and_found(tmp_path: Path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "save_total_limit": 1}
    # The last steps destroy the model: the best one is not the last.
    trainer = make_trainer(tmp_path, load_best_model_at_end=True, **settings)
    trainer.train()

    best = tmp_path / f"checkpoint-{trainer.state.best_global_step}"
    assert trainer.state.best_model_checkpoint == str(best)
    assert json.loads((best / "trainer_state.json").read_text())["best_model_checkpoint"] == str(best)
    assert_same_weights(read_module_weights(best), trainer.model.state_dict())
    assert {path.name for path in tmp_path.iterdir()} <= {best.name, "checkpoint-12"}


def run_train(*arguments: object, num_processes: int, kill_at: tuple[int, float] | None = None) -> int:
    """Runs examples/train.py; kills it, and all it started, some seconds after the checkpoint of a step is there."""
    output_dir = Path(arguments[arguments.index("--output_dir") + 1])
    process = subprocess.Popen(
        [*make_launcher(num_processes), str(EXAMPLES / "train.py"), *map(str, arguments)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if kill_at is not None:
        step, delay = kill_at
        while process.poll() is None and not any(
            int(path.name.split("-")[1]) >= step for path in output_dir.glob("checkpoint-*")
        ):
            time.sleep(0.01)
        time.sleep(delay)
        assert process.poll() is None, "It ended before it was killed."
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "settings"),
    [
        (1, {"flip_prob": 0.5, "crop_scale": [0.5, 1], "mixup_alpha": 0.8, "num_repeats": 2, "ema_decay": 0.9}),
        (1, {"freeze_backbone": "true", "gradient_accumulation_steps": 2, "num_train_epochs": 8}),
        (2, {"per_device_train_batch_size": 2}),
    ],
    ids=["augmentation, EMA", "frozen backbone, accumulation", "two processes"],
)
def test_killed_at_five_random_moments_the_same_command_gives_the_same_weights(
    tmp_path: Path, num_processes: int, settings: dict
):
    clips = write_motion_clips(tmp_path / "clips", num_train=48, num_val=10, num_workers=1)
    settings = SETTINGS | {
        "num_train_epochs": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 2,
        "dataloader_num_workers": 2,
        "learning_rate": 1e-2,
        **settings,
    }
    flags = [*as_flags(settings), "--data_dir", clips, "--output_dir"]
    assert run_train(*flags, tmp_path / "whole", num_processes=num_processes) == 0
    moments = random.Random(0)
    # Of 48 steps.
    for step in sorted(moments.sample(range(1, 37), 5)):
        delay = moments.uniform(0, 0.1)
        code = run_train(*flags, tmp_path / "killed", num_processes=num_processes, kill_at=(step, delay))
        assert code == -signal.SIGKILL
    assert run_train(*flags, tmp_path / "killed", num_processes=num_processes) == 0

    assert_same_weights(*(load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")))
    histories = [
        json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"] for name in ("whole", "killed")
    ]
    curves = [[(entry["step"], entry["loss"]) for entry in history if "loss" in entry] for history in histories]
    assert curves[0] == curves[1]
