"""Stop and go on: killed runs continue to the same weights, and what fails to be saved destroys nothing."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from pkgutil import resolve_name

import datasets
import pytest
import torch
from example_runs import ROOT, SETTINGS, as_flags, launch, make_launcher
from safetensors.torch import load_file
from tiny_models import VIT_VTN, make_vit_vtn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from drawn_videos.motion_clips import write_motion_clips
from vtn_hf import VTNForVideoClassification, VTNVideoProcessor
from vtn_hf.training.arguments import VTNTrainingArguments
from vtn_hf.training.trainer import SetEpoch, VTNTrainer


class Clips(torch.utils.data.Dataset):
    """Pixels of clips, without videos; dropout makes the training random."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(4, 3, 16, 16, generator=generator), "labels": torch.tensor(index % 2)}


def make_trainer(
    output_dir: Path, compute_metrics=None, seed: int = 0, arguments_class=TrainingArguments, **arguments
) -> VTNTrainer:
    """With a ViT, whose weights have other names in files; `seed` is that of its first weights."""
    settings = {"per_device_train_batch_size": 2, "num_train_epochs": 3, "save_strategy": "steps", "save_steps": 1}
    settings |= {"logging_steps": 1, "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-2} | arguments
    return VTNTrainer(
        model=make_vit_vtn(seed, num_labels=2),
        args=arguments_class(str(output_dir), **settings),
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
    resumed = make_trainer(tmp_path / "resumed", seed=1, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / f"run/checkpoint-{step}"))

    assert_same_weights(whole.model.state_dict(), resumed.model.state_dict())
    curves = [
        [(entry["step"], entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
        for trainer in (whole, resumed)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 12


class Epoch:
    """Is told the epoch, and notes what it was told."""

    def __init__(self):
        self.epoch, self.seen = 0, []

    def set_epoch(self, epoch: int):
        self.epoch = epoch
        self.seen.append(epoch)


@pytest.mark.parametrize("num_batches", [1, 2])
@pytest.mark.parametrize("step", [2, 4, 5, 9])
def test_a_stream_that_has_begun_anew_goes_on_where_it_was(tmp_path: Path, step: int, num_batches: int):
    """Eight videos in batches of two, or an odd number of accumulated ones, which is less than the run needs."""

    def make(folder: str, **arguments) -> tuple[VTNTrainer, Epoch]:
        epoch = Epoch()
        settings = {"max_steps": 12, "gradient_accumulation_steps": num_batches, "max_grad_norm": 0.1}
        trainer = make_trainer(tmp_path / folder, **settings, **arguments)
        rows = datasets.Dataset.from_dict({"number": list(range(10 - 2 * num_batches))}).to_iterable_dataset(2)
        clips = Clips()
        # The function is called in this process, and in another epoch gives other clips.
        trainer.train_dataset = rows.shuffle(seed=0, buffer_size=4).map(
            lambda row: clips[row["number"] + 8 * epoch.epoch], remove_columns=["number"]
        )
        trainer.add_callback(SetEpoch(epoch))
        return trainer, epoch

    whole, seen = make("run")
    whole.train()
    resumed, seen_again = make("resumed", seed=1, save_strategy="no")
    resumed.train(resume_from_checkpoint=str(tmp_path / f"run/checkpoint-{step}"))
    assert_same_weights(whole.model.state_dict(), resumed.model.state_dict())
    assert seen.seen == list(range(len(seen.seen))) and len(seen.seen) >= 3
    assert seen_again.seen == seen.seen[-len(seen_again.seen) :]


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
    whole = make_trainer(tmp_path / "whole", save_strategy="no")
    whole.train()
    assert_same_weights(whole.model.state_dict(), resumed.model.state_dict())


def test_a_checkpoint_that_was_being_written_is_not_the_last_one(tmp_path: Path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(self, output_dir):
        # What a killed process does not do.
        monkeypatch.setattr("vtn_hf.training.checkpoint_trainer.shutil.rmtree", lambda *args, **kwargs: None)
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


@pytest.mark.parametrize("logging_steps", [5, 7])
def test_the_curve_of_a_resumed_run_is_that_of_the_whole_one(tmp_path: Path, logging_steps: int):
    """Where a checkpoint lies between two points, too."""
    whole = make_trainer(tmp_path / "run", logging_steps=logging_steps)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", seed=1, logging_steps=logging_steps)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run/checkpoint-8"))
    curves = [
        [(entry["step"], entry.get("loss"), entry.get("train_loss")) for entry in trainer.state.log_history]
        for trainer in (whole, resumed)
    ]
    assert curves[0] == curves[1]


FILES = (
    "model.safetensors",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
    "training_args.bin",
)


def make_averaging_trainer(output_dir: Path) -> VTNTrainer:
    return make_trainer(output_dir, seed=1, arguments_class=VTNTrainingArguments, ema_decay=0.9, max_steps=3)


@pytest.fixture(scope="module")
def three_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    make_averaging_trainer(path).train()
    return path


@pytest.mark.parametrize("file", [*FILES, "ema.pt"])
def test_a_checkpoint_that_lacks_a_file_is_refused(three_checkpoints: Path, tmp_path: Path, file: str):
    shutil.copytree(three_checkpoints, tmp_path, dirs_exist_ok=True)
    trainer = make_averaging_trainer(tmp_path)
    path = tmp_path / "checkpoint-3" / file
    content = path.read_bytes()
    # The last is what a loss of power may leave.
    for damage in (content[:-20], content[: len(content) // 2], b"", bytes(len(content))):
        path.write_bytes(damage)
        with pytest.raises(
            ValueError, match=rf"There is no going on from .*checkpoint-3: .*/{file} is damaged"
        ) as error:
            trainer.train(resume_from_checkpoint=True)
        assert f"{tmp_path}/checkpoint-2, before it, is whole" in str(error.value)
    path.unlink()
    (tmp_path / "checkpoint-2/scheduler.pt").unlink()
    with pytest.raises(ValueError, match=rf"/{file} is missing.*checkpoint-1, before it, is whole"):
        trainer.train(resume_from_checkpoint=True)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert trainer.state.global_step == 3


def test_all_that_is_wrong_is_named(tmp_path: Path):
    make_trainer(tmp_path, max_steps=1).train()
    for file in FILES[1:4]:
        (tmp_path / "checkpoint-1" / file).unlink()
    with pytest.raises(ValueError, match="optimizer.pt is missing.*scheduler.pt is missing.*rng_state.pth is missing"):
        make_trainer(tmp_path, max_steps=1).train(resume_from_checkpoint=True)


def test_a_checkpoint_of_other_processes_is_refused(tmp_path: Path):
    make_trainer(tmp_path, max_steps=1).train()
    (tmp_path / "checkpoint-1/rng_state.pth").rename(tmp_path / "checkpoint-1/rng_state_0.pth")
    with pytest.raises(ValueError, match="rng_state.pth is missing"):
        make_trainer(tmp_path, max_steps=2).train(resume_from_checkpoint=True)


def test_files_are_on_the_disk_before_the_checkpoint_has_its_name(tmp_path: Path, monkeypatch):
    events = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(
        os, "fsync", lambda handle: events.append(os.readlink(f"/proc/self/fd/{handle}")) or sync(handle)
    )
    monkeypatch.setattr(Path, "rename", lambda self, target: events.append("rename") or rename(self, target))
    make_trainer(tmp_path, max_steps=1).train()
    place = events.index("rename")
    assert {str(tmp_path / "_unfinished/checkpoint-1" / file) for file in FILES} <= set(events[:place])
    assert events[place + 1 :] == [str(tmp_path)]


def test_a_loss_that_is_not_finite_stops_the_training_at_once(tmp_path: Path):
    trainer = make_trainer(tmp_path, learning_rate=1e30, max_grad_norm=0)
    with pytest.raises(FloatingPointError, match="The loss of step 2 is (nan|inf)"):
        trainer.train()
    assert trainer.state.global_step == 1


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path):
    class Spoil(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 2:
                torch.nn.init.constant_(model.classifier.out_proj.bias, float("nan"))

    trainer = make_trainer(tmp_path)
    trainer.add_callback(Spoil)
    with pytest.raises(FloatingPointError, match="After step 2 the weights classifier.out_proj.bias are not finite"):
        trainer.train()
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-1")
    with pytest.raises(FloatingPointError, match="so it has no accuracy"):
        trainer.evaluate()


def test_the_best_checkpoint_is_found_in_a_folder_that_was_moved(tmp_path: Path):
    settings = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True}
    make_trainer(tmp_path / "run", max_steps=3, **settings).train()
    state = json.loads((tmp_path / "run/checkpoint-3/trainer_state.json").read_text())
    (tmp_path / "run").rename(tmp_path / "moved")
    # The best one so far stays the best.
    worse = settings | {"learning_rate": 1e3, "max_steps": 4}
    resumed = make_trainer(tmp_path / "moved", seed=1, **worse)
    resumed.train(resume_from_checkpoint=True)
    best = tmp_path / f"moved/checkpoint-{state['best_global_step']}"
    assert resumed.state.best_model_checkpoint == str(best)
    assert_same_weights(read_module_weights(best), resumed.model.state_dict())

    shutil.rmtree(best)
    with pytest.raises(ValueError, match=f"{best.name}, the best checkpoint so far, is missing"):
        make_trainer(tmp_path / "moved", **worse).train(resume_from_checkpoint=str(tmp_path / "moved/checkpoint-4"))


def has_reached(output_dir: Path, step: int) -> bool:
    steps = [int(path.name.split("-")[1]) for path in output_dir.glob("checkpoint-*")]
    return max(steps, default=-1) >= step or (step == 0 and (output_dir / "run.json").exists())


def run_train(*arguments: object, num_processes: int, kill_at: tuple[int, float] | None = None) -> int:
    """Runs `vtn train`; kills it, and all it started, some seconds after the checkpoint of a step is there."""
    output_dir = Path(arguments[arguments.index("--output_dir") + 1])
    process = subprocess.Popen(
        [*make_launcher(num_processes), "-m", "vtn_hf.commands.train", *map(str, arguments)],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if kill_at is not None:
        step, delay = kill_at
        while process.poll() is None and not has_reached(output_dir, step):
            time.sleep(0.01)
        time.sleep(delay)
        assert process.poll() is None, "It ended before it was killed."
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


EVALUATED = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": "true"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_processes", "settings"),
    [
        (1, {"flip_prob": 0.5, "crop_scale": [0.5, 1], "mixup_alpha": 0.8, "num_repeats": 2, "ema_decay": 0.9}),
        (1, {"freeze_backbone": "true", "gradient_accumulation_steps": 2, "num_train_epochs": 8, "logging_steps": 3}),
        (1, EVALUATED),
        (1, {"features": True, "clip_num_frames": 4} | EVALUATED),
        (2, {"per_device_train_batch_size": 2}),
    ],
    ids=["augmentation, EMA", "frozen backbone, accumulation", "best model", "cached features", "two processes"],
)
def test_killed_at_five_random_moments_the_same_command_gives_the_same_weights(
    tmp_path: Path, num_processes: int, settings: dict
):
    clips = write_motion_clips(tmp_path / "clips", num_train=48, num_val=10, num_workers=1)
    settings = SETTINGS | {
        "data_dir": clips,
        "model_config": json.dumps(VIT_VTN),
        "num_train_epochs": 4,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": 2,
        "dataloader_num_workers": 2,
        "learning_rate": 1e-2,
        **settings,
    }
    if "features" in settings:
        settings = use_features(settings, tmp_path)
    flags = [*as_flags(settings), "--output_dir"]
    assert run_train(*flags, tmp_path / "whole", num_processes=num_processes) == 0
    moments = random.Random(0)
    # Of 48 steps; at 0, there is no checkpoint yet.
    for step in [0, *sorted(moments.sample(range(1, 37), 4))]:
        delay = moments.uniform(0, 0.1)
        code = run_train(*flags, tmp_path / "killed", num_processes=num_processes, kill_at=(step, delay))
        assert code == -signal.SIGKILL
    assert run_train(*flags, tmp_path / "killed", num_processes=num_processes) == 0

    assert_same_weights(*(load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")))
    histories = [
        json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"] for name in ("whole", "killed")
    ]
    names = ("step", "loss", "grad_norm", "learning_rate", "eval_loss", "eval_top1", "train_loss")
    curves = [[{name: entry.get(name) for name in names} for entry in history] for history in histories]
    assert curves[0] == curves[1]


def use_features(settings: dict, path: Path) -> dict:
    """Extracts them; what was said of pixels and the model is theirs then."""
    make_vit_vtn(num_labels=10).vtn.backbone.save_pretrained(path / "backbone")
    processor = VTNVideoProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, num_frames=8)
    processor.save_pretrained(path / "backbone")
    flags = ["--data_dir", settings["data_dir"], "--backbone_name_or_path", path / "backbone", "--device", "cpu"]
    launch(*flags, "--output_dir", path / "features", script="extract")
    of_pixels = ("data_dir", "model_config", "resize_to", "crop_size", "num_frames")
    kept = {name: value for name, value in settings.items() if name not in of_pixels}
    return kept | {"features": path / "features", "model_config": json.dumps({"num_attention_heads": 2})}
