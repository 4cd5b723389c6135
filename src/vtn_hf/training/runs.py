"""
The folder of a training run remembers its settings: the same command continues the run, other settings are refused.

    run = Run(folder)
    with run.locked():                          # a second process is refused
        run.begin(settings, notes)              # so are other settings than those that it was begun with
        … run.find_checkpoint() …
        run.finish()
"""

import contextlib
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset, IterableDataset
from transformers import Trainer
from transformers.trainer_utils import get_last_checkpoint

from .. import __version__
from ..data.feature_cache import CachedClips
from ..outputs import writing
from ..results import one_run


DataSplit = Dataset | IterableDataset | CachedClips

_NAME = "run.json"
# Fields of a configuration that do not say what the model computes, or that are remembered elsewhere.
_VOLATILE = {"_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "transformers_version"}
_VOLATILE |= {"vtn_hf_version"}
# Arguments that name things which are remembered themselves: videos, classes, model and processor.
_DESCRIBED = {"data_dir", "features", "class_names", "scan_table", "model_config", "processor_config", "min_coverage"}
_CODE = {path.name for path in Path(__file__).parents[1].glob("*_vtn.py")}
# Names of what a training run leaves in its folder, except the model card.
_OWN = re.compile(
    r"checkpoint-\d+|_unfinished|run\.json|coverage\.json|skipped_\w+\.jsonl|(all|train|eval)_results\.json"
    r"|config\.json|(video_)?preprocessor_config\.json|adapter_config\.json|training_args\.bin|trainer_state\.json"
    r"|(model|adapter_model|pytorch_model)(-\d{5}-of-\d{5})?\.(safetensors|bin)(\.index\.json)?"
    r"|report/(index\.html|(classes|wrong_predictions|confusion_matrix)\.csv)"
)


class Run:
    """
    A folder that holds a training run, or is to hold one.

    Args:
        folder (`str` or `Path`): Files in it that are not a run's own are never touched.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def check_sources(self, sources: dict[str, str | None]):
        """
        Makes sure that the run does not overwrite what it is made from.

        Args:
            sources (`dict`): From the names of arguments to files, folders and names of repositories.

        Raises:
            ValueError: If a source is the folder, or what the run would write and delete there.
        """
        folder, own = self.folder.resolve(), [path.resolve() for path in self._list_own()]
        for name, source in sources.items():
            place = Path(source or ".").resolve()
            if source and (place == folder or any(each in (place, *place.parents) for each in own)):
                raise ValueError(f"--{name} {source} is in the output_dir {self.folder}; choose another output_dir.")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """As [`one_run`]: within the `with` block, no other process works on the run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with one_run(self.folder):
            yield

    def find_checkpoint(self, asked: str | None = None) -> str | None:
        """
        Finds the checkpoint to continue from: the one that is asked for, if it is the run's own; else the run's last
        one; and where it has none yet, any that is asked for.
        """
        if asked is not None and self.folder.resolve() in Path(asked).resolve().parents:
            return asked
        return get_last_checkpoint(str(self.folder)) or asked

    def begin(self, settings: dict[str, Any], notes: dict[str, Any], overwrite: bool = False) -> list[str]:
        """
        Begins a run, or continues it.

        Args:
            settings (`dict`): What the result depends on, in types that JSON has.
            notes (`dict`): What may change when the run is continued.
            overwrite (`bool`, *optional*, defaults to `False`): Delete a run that is there first.

        Returns:
            `list[str]`: The notes that have changed since the run was begun, in words.

        Raises:
            ValueError: If the folder holds a run that was begun with other settings, which are listed, or one whose
                settings nobody remembers.
        """
        settings, notes = json.loads(json.dumps([settings, notes]))  # tuples become lists
        if overwrite:
            self._clear()
        earlier = self._read()
        own = [path for path in self._list_own() if path.name not in _CODE]
        if earlier is None and own:
            raise ValueError(
                f"{self.folder} holds a model or a run ({own[0].name}) of which it is not known how it was made. "
                "Choose another output_dir, or --overwrite to delete it and begin anew."
            )
        changes = []
        if earlier is not None:
            if differences := list_differences(earlier["settings"], settings):
                raise ValueError(
                    f"{self.folder} holds a run of other settings: {'; '.join(differences)}. Choose another "
                    "output_dir (with --resume_from_checkpoint to begin with a checkpoint of this run), or "
                    "--overwrite to delete it and begin anew."
                )
            changes = list_differences(earlier["notes"], notes)
        self._write(settings, notes, is_finished=earlier is not None and earlier["is_finished"])
        return changes

    @property
    def is_finished(self) -> bool:
        """Whether everything has been done and written."""
        run = self._read()
        return run is not None and run["is_finished"]

    def finish(self):
        """Marks the run as finished."""
        run = self._read()
        self._write(run["settings"], run["notes"], is_finished=True)

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / _NAME
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); --overwrite begins anew.") from error

    def _write(self, settings: dict[str, Any], notes: dict[str, Any], is_finished: bool):
        content = {"is_finished": is_finished, "settings": settings, "notes": notes}
        with writing(self.folder / _NAME) as unfinished:
            unfinished.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

    def _list_own(self) -> Iterator[Path]:
        for path in sorted([*self.folder.glob("*"), *self.folder.glob("report/*")]):
            name = path.relative_to(self.folder).as_posix()
            if _OWN.fullmatch(name) or name in _CODE:
                yield path

    def _clear(self):
        for path in list(self._list_own()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def list_differences(earlier: Any, settings: Any, name: str = "") -> list[str]:
    """
    Says in words what differs between two nested dictionaries. An entry that only one of them has is passed over:
    another version of a library has other fields.
    """
    if isinstance(earlier, dict) and isinstance(settings, dict):
        return [
            difference
            for key in earlier
            if key in settings
            for difference in list_differences(earlier[key], settings[key], f"{name}.{key}" if name else key)
        ]
    return [] if earlier == settings else [f"{name} was {earlier!r}, not {settings!r}"]


def describe_run(
    trainer: Trainer, class_names: list[str], splits: dict[str, DataSplit], arguments: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    The `settings` and `notes` of a training for [`Run.begin`]: what its result depends on, and what else is worth
    remembering.

    Args:
        trainer (`Trainer`): Of a VTN, with [`VTNTrainingArguments`].
        class_names (`list[str]`): In the order of their labels.
        splits (`dict`): What is trained and evaluated on.
        arguments (`dict`): Other arguments.
    """
    settings, notes = trainer.args.split_settings()
    for name, value in arguments.items():
        (notes if name in _DESCRIBED else settings)[name] = value
    settings |= {
        "model_class": type(trainer.model).__name__,
        "model_config": _drop_volatile(trainer.model.config.to_dict()),
        "processor": json.loads(trainer.processing_class.to_json_string()),
        "classes": class_names,
        "videos": [f"{split}: {describe_videos(videos)}" for split, videos in splits.items()],
        "num_processes": trainer.args.world_size,
        "mixed_precision": trainer.accelerator.mixed_precision,
        "fsdp_enabled": trainer.is_fsdp_enabled,
        "deepspeed_enabled": trainer.is_deepspeed_enabled,
    }
    notes |= {"vtn_hf": __version__, "transformers": transformers.__version__, "torch": torch.__version__}
    return settings, notes


def describe_videos(videos: DataSplit) -> str:
    """The number of videos, and a fingerprint of their names and labels."""
    if isinstance(videos, IterableDataset):
        return f"{videos.num_shards} shards"
    if isinstance(videos, CachedClips):
        names, labels = videos.paths, videos.labels.tolist()
    else:
        rows = videos.with_format(None)  # without decoding
        names, labels = list(rows["name"]), list(rows["label"])
    digest = hashlib.sha256(json.dumps([names, labels]).encode()).hexdigest()
    return f"{len(videos)} videos {digest[:12]}"


def _drop_volatile(config: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _drop_volatile(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in _VOLATILE
    }
