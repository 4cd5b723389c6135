"""
The commands: called in this process, which has torch loaded already, or run as a user runs them.

One real launch of each remains; the others would show nothing more and take many seconds each.
"""

import contextlib
import hashlib
import importlib
import io
import json
import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from unittest import mock

from accelerate.state import AcceleratorState, GradientState
from tiny_models import RESNET_VTN


ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
# Of `vtn train`: a tiny model, tiny pictures, and a word about each step.
SETTINGS = {
    "model_config": json.dumps(RESNET_VTN),
    "resize_to": 16,
    "crop_size": 16,
    "clip_num_frames": 4,
    "num_frames": 8,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": "true",
    "device": "cpu",
}


def run(name: str, *arguments: object) -> int:
    """The exit status of a command, called in this process."""
    forget_processes()
    try:
        return importlib.import_module(f"vtn_hf.commands.{name}").main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code
    finally:
        forget_processes()


def run_main(script: str | Path, *arguments: object) -> subprocess.CompletedProcess:
    """Runs a command, or a script, as the main program, in this process."""
    argv = [str(script), *map(str, arguments)]
    printed, errors, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.dict(os.environ, {"ACCELERATE_USE_CPU": "true"}),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
    ):
        forget_processes()
        try:
            if is_command(script):
                status = run(script, *arguments)
            else:
                runpy.run_path(str(script), run_name="__main__")
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
            errors.write("" if isinstance(error.code, int | None) else str(error.code))
        except Exception:
            status = 1
            traceback.print_exc()
        finally:
            forget_processes()
    return subprocess.CompletedProcess(argv, status, printed.getvalue(), errors.getvalue())


def is_command(script: str | Path) -> bool:
    return not str(script).endswith(".py")


def forget_processes():
    """Accelerate finds out once per process how many there are."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def run_forked(script: str | Path, *arguments: object, num_processes: int) -> subprocess.CompletedProcess:
    """The same in several processes that share the work, as under torchrun; they are copies of this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def work(rank: int, result_file: Path):
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_processes, "LOCAL_WORLD_SIZE": num_processes}
        os.environ |= address | {name: str(value) for name, value in places.items()}
        result = run_main(script, *arguments)
        result_file.write_text(json.dumps([result.stdout, result.stderr]))
        sys.stdout.flush()
        os._exit(result.returncode)

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, str(rank)) for rank in range(num_processes)]
        processes = [multiprocessing.get_context("fork").Process(target=work, args=each) for each in enumerate(files)]
        for process in processes:
            process.start()
        deadline = time.monotonic() + 300
        while any(process.is_alive() for process in processes) and time.monotonic() < deadline:
            if any(process.exitcode for process in processes):
                break  # the others would wait for the one that failed
            time.sleep(0.02)
        for process in processes:
            process.kill()
            process.join()
        # A script may end its process by itself.
        texts = [json.loads(file.read_text()) if file.exists() else ["", ""] for file in files]
    status = max(abs(process.exitcode) for process in processes)
    return subprocess.CompletedProcess([], status, *map("".join, zip(*texts, strict=True)))


def run_process(
    script: str | Path, *arguments: object, launcher: Sequence[str] = (sys.executable,)
) -> subprocess.CompletedProcess:
    """Runs a command or a script as a user runs it: by itself, or launched."""
    what = ["-m", f"vtn_hf.commands.{script}"] if is_command(script) else [str(script)]
    command = [*launcher, *what, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def make_launcher(num_processes: int) -> list[str]:
    """`accelerate launch` starts one process on the CPU, whatever the number asked for; torchrun starts several."""
    if num_processes == 1:
        return [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]


def launch(*arguments: object, num_processes: int = 1, script: str | Path = "train") -> str:
    """Runs `vtn train`, or another command or script, here or in copies of this process; returns what it printed."""
    result = (
        run_main(script, *arguments)
        if num_processes == 1
        else run_forked(script, *arguments, num_processes=num_processes)
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return result.stdout


def map_here(function: Callable, items: Iterable, *limits: object) -> Iterator[tuple]:
    """What `vtn_hf.data.file_pool.map_files` does, without other processes, which take seconds to start."""
    for item in items:
        try:
            yield item, function(item)
        except Exception as error:
            yield item, error


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


def as_flags(settings: dict) -> list[str]:
    """A list is a flag with several values."""
    values = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
    return [part for name, several in values.items() for part in (f"--{name}", *map(str, several))]
