"""The example scripts, run as a user runs them."""

import hashlib
import importlib
import json
import subprocess
import sys
from pathlib import Path

from tiny_models import RESNET_VTN


ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
# Of train.py: a tiny model, tiny pictures, and a word about each step.
SETTINGS = {
    "model_config": json.dumps(RESNET_VTN),
    "resize_to": 16,
    "crop_size": 16,
    "clip_num_frames": 4,
    "eval_num_frames": 8,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": "true",
    "use_cpu": "true",
}


# Behind everything else: a script has the name of the library `evaluate`.
sys.path.append(str(EXAMPLES))


def run(script: str, *arguments: object) -> int:
    """The exit status of an example, called in this process."""
    try:
        return importlib.import_module(script).main([str(argument) for argument in arguments]) or 0
    except SystemExit as error:
        return error.code


def launch_script(script: str, *arguments: object) -> tuple[str, int]:
    """What an example prints, run as a user runs it, and its exit status."""
    command = [sys.executable, str(EXAMPLES / script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return result.stdout, result.returncode


def take_stock(folder: Path) -> dict[str, tuple]:
    """What there is below a folder, with contents, permissions and times of change: equal if nothing was touched."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mode,
            path.lstat().st_ino,
            path.lstat().st_mtime_ns,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None,
        )
        for path in [folder, *folder.rglob("*")]
    }


def make_launcher(num_processes: int) -> list[str]:
    """`accelerate launch` starts one process on the CPU, whatever the number asked for; torchrun starts them."""
    if num_processes == 1:
        return [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]


def launch(*arguments: object, num_processes: int = 1, script: Path = EXAMPLES / "train.py") -> str:
    """Runs examples/train.py, or another script; returns what it printed."""
    command = [*make_launcher(num_processes), str(script), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def as_flags(settings: dict) -> list[str]:
    """A list is a flag with several values."""
    values = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
    return [part for name, several in values.items() for part in (f"--{name}", *map(str, several))]
