"""Many processes, or many small batches, are one process with a big batch: gloo on the CPU."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from datasets import Dataset, IterableDataset
from distributed_run import NUM_EVALUATED
from example_runs import make_launcher, run_forked, run_main, run_process
from gradient_run import PROBLEM_TYPES, TRAINERS, measure
from safetensors.torch import load_file


TESTS = Path(__file__).parent
CONFIGS = TESTS.parent / "examples/configs/accelerate"
# As in the config.
FSDP = {"fsdp": True, "fsdp_config": {"transformer_layer_cls_to_wrap": ["VTNLayer", "ViTLayer"]}}
SHARDED_FSDP = {"fsdp": True, "fsdp_config": FSDP["fsdp_config"] | {"state_dict_type": "SHARDED_STATE_DICT"}}


def run(output_dir: Path, num_processes: int, **settings) -> dict:
    arguments = (TESTS / "distributed_run.py", output_dir, json.dumps(settings))
    result = run_main(*arguments) if num_processes == 1 else run_forked(*arguments, num_processes=num_processes)
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads((output_dir / "result.json").read_text())


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """Batches of 8, in one process."""
    path = tmp_path_factory.mktemp("one")
    result = run(path, 1, per_device_train_batch_size=8)
    assert result["mode"] == "DistributedType.NO" and len(result["losses"]) == 4
    # The task is hard enough for a difference to show.
    assert max(result["losses"]) - min(result["losses"]) > 0.1
    return result | {"weights": load_file(path / "model.safetensors")}


@pytest.mark.parametrize(
    ("num_processes", "mode", "settings"),
    [
        (2, "MULTI_CPU", {"per_device_train_batch_size": 4}),
        (2, "MULTI_CPU", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}),
        (1, "NO", {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}),
        (2, "FSDP", {"per_device_train_batch_size": 4} | FSDP),
    ],
    ids=["DDP", "DDP and accumulation", "accumulation 1 x 8", "FSDP"],
)
def test_any_way_to_a_batch_of_8_gives_the_same_losses_and_weights(
    one_process: dict, tmp_path: Path, num_processes: int, mode: str, settings: dict
):
    result = run(tmp_path, num_processes, **settings)

    assert (result["mode"], result["num_processes"]) == (f"DistributedType.{mode}", num_processes)
    assert result["losses"] == pytest.approx(one_process["losses"], abs=1e-5)
    weights = load_file(tmp_path / "model.safetensors")
    assert weights.keys() == one_process["weights"].keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, one_process["weights"][name], rtol=0, atol=1e-5, msg=name)


def test_two_processes_give_the_gradient_of_one_for_all_kinds_of_labels(tmp_path: Path):
    result = run_process(TESTS / "gradient_run.py", tmp_path / "result.json", launcher=make_launcher(2))
    assert result.returncode == 0, result.stderr[-4000:]
    found = iter(json.loads((tmp_path / "result.json").read_text()))
    for trainer_class in TRAINERS:
        for problem_type in PROBLEM_TYPES:
            loss, gradient = measure(trainer_class, problem_type, num_batches=1)
            other_loss, other_gradient = next(found)
            assert other_loss == pytest.approx(loss, rel=1e-5)
            np.testing.assert_allclose(other_gradient, gradient, rtol=1e-4, atol=1e-7)


def test_an_evaluation_by_two_processes_sees_each_video_once(one_process: dict, tmp_path: Path):
    """13 videos in batches of two: the last round is short by three."""
    result = run(tmp_path, 2, per_device_train_batch_size=4)
    assert result["labels"] == one_process["labels"] == list(range(NUM_EVALUATED))
    logits = torch.tensor(result["logits"])
    torch.testing.assert_close(logits, torch.tensor(one_process["logits"]), rtol=0, atol=1e-4)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(NUM_EVALUATED)).item()
    assert result["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert result["eval_loss"] == pytest.approx(one_process["eval_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("mode", "step"),
    [({}, 1), (FSDP, 3), (SHARDED_FSDP, 1)],
    ids=["DDP, first epoch", "FSDP, second epoch", "FSDP in parts, first epoch"],
)
def test_two_processes_go_on_from_the_middle_of_an_epoch(tmp_path: Path, mode: dict, step: int):
    """The order of the videos and the dropout of each process included."""
    settings = {"per_device_train_batch_size": 4, "dropout": 0.3, "save_strategy": "steps", "save_steps": 1, **mode}
    whole = run(tmp_path / "whole", 2, **settings)
    resumed = run(tmp_path / "resumed", 2, **settings, resume=str(tmp_path / f"whole/checkpoint-{step}"))

    assert resumed["losses"] == whole["losses"]
    weights = load_file(tmp_path / "whole/model.safetensors")
    for name, weight in load_file(tmp_path / "resumed/model.safetensors").items():
        assert weight.equal(weights[name]), name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_streamed_shards_are_split_by_process_and_worker(num_workers: int):
    """What accelerate does with `dispatch_batches=False`: each video is read once, by one worker of one process."""
    from accelerate import Accelerator
    from accelerate.data_loader import prepare_data_loader

    rows = Dataset.from_dict({"number": list(range(24))}).to_iterable_dataset(num_shards=8)
    assert isinstance(rows, IterableDataset)
    Accelerator(cpu=True)
    seen = [
        [
            number
            for batch in prepare_data_loader(
                torch.utils.data.DataLoader(rows, batch_size=3, num_workers=num_workers),
                num_processes=2,
                process_index=rank,
                dispatch_batches=False,
                put_on_device=False,
            )
            for number in batch["number"].tolist()
        ]
        for rank in range(2)
    ]
    assert len(seen[0]) == len(seen[1]) == 12
    assert sorted(seen[0] + seen[1]) == list(range(24))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddp", DistributedType.MULTI_GPU),
        ("fsdp", DistributedType.FSDP),
        ("deepspeed_zero2", DistributedType.DEEPSPEED),
    ],
)
def test_accelerate_understands_the_configs(name: str, expected: DistributedType):
    path = str(CONFIGS / f"{name}.yaml")
    assert load_config_from_file(path).distributed_type == expected
    arguments = launch_command_parser().parse_args(["--config_file", path, "train.py"])
    arguments, *_ = _validate_launch_command(arguments)
    assert {
        "ddp": arguments.multi_gpu,
        "fsdp": arguments.use_fsdp and arguments.fsdp_transformer_layer_cls_to_wrap == "VTNLayer,ViTLayer",
        "deepspeed_zero2": arguments.use_deepspeed and arguments.zero_stage == 2,
    }[name]


# https://www.deepspeed.ai/docs/config-json/
DEEPSPEED_KEYS = {
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "steps_per_print",
    "fp16.enabled",
    "bf16.enabled",
    "zero_optimization.stage",
    "zero_optimization.offload_optimizer.device",
    "zero_optimization.offload_optimizer.nvme_path",
    "zero_optimization.offload_param.device",
    "zero_optimization.offload_param.nvme_path",
    "zero_optimization.stage3_gather_16bit_weights_on_model_save",
}


def flatten(settings: dict, prefix: str = "") -> dict:
    values = {}
    for name, value in settings.items():
        values |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


def test_deepspeed_gets_keys_that_it_documents(monkeypatch):
    """What `accelerate launch` would hand to it, without DeepSpeed."""
    path = str(CONFIGS / "deepspeed_zero2.yaml")
    launched = []
    monkeypatch.setattr("accelerate.commands.launch.deepspeed_launcher", launched.append)
    parser = launch_command_parser()
    assert load_config_from_file(path).deepspeed_config.keys() <= {action.dest for action in parser._actions}
    launch_command(parser.parse_args(["--config_file", path, "train.py"]))
    for name, value in prepare_deepspeed_cmd_env(launched[0])[1].items():
        monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision("bf16")
    settings = flatten(plugin.deepspeed_config)
    assert settings.keys() <= DEEPSPEED_KEYS
    assert settings["zero_optimization.stage"] == 2
    # Trainer puts its own in the place of these.
    automatic = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"}
    assert {name for name, value in settings.items() if value == "auto"} == automatic | {"gradient_clipping"}
