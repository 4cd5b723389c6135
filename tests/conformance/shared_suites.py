"""
transformers' own shared test suites, made importable as the package `shared_tests`.

Its wheel has no tests, so they come from the source distribution of the installed version, which is downloaded once
into `.conformance/` (git ignores it). What the suites import and the source distribution lacks is replaced by the
stand-ins below.
"""

import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType

import transformers
from PIL import Image
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES, MODEL_MAPPING_NAMES

import vtn_hf


CACHE = Path(__file__).parents[2] / ".conformance"


def download_tests() -> Path:
    """The folder with the tests of the installed transformers, downloaded if it is not there yet."""
    name = f"transformers-{transformers.__version__}"
    tests = CACHE / name / "tests"
    if not tests.is_dir():
        CACHE.mkdir(exist_ok=True)
        # Not at once in its place, so that an interrupted download leaves nothing that looks complete.
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            requirement = f"transformers=={transformers.__version__}"
            download = ["download", "--quiet", "--no-deps", "--no-binary", "transformers", "--dest", folder]
            subprocess.run([sys.executable, "-m", "pip", *download, requirement], check=True)
            with tarfile.open(Path(folder, f"{name}.tar.gz")) as archive:
                members = [member for member in archive if member.name.startswith(f"{name}/tests/")]
                archive.extractall(folder, members, filter="data")
            os.rename(Path(folder, name), tests.parent)
    return tests


class _Library(ModuleType):
    """What the suites take for transformers: the library with VTN in it."""

    def __getattr__(self, name: str):
        return getattr(vtn_hf if name in vtn_hf.__all__ else transformers, name)


def _stand_in(module_name: str, **contents):
    module = ModuleType(module_name)
    vars(module).update(contents)
    sys.modules[module_name] = module


_stand_in("shared_tests", __path__=[str(download_tests())])
# VTN generates no text, and its export has tests of its own.
_stand_in("shared_tests.exporters.test_export", ExportTesterMixin=type("ExportTesterMixin", (), {}))
_stand_in("shared_tests.generation.test_utils", GenerationTesterMixin=type("GenerationTesterMixin", (), {}))
# Arguments common to all configurations.
_stand_in(
    "shared_tests.utils.test_configuration_utils",
    config_common_kwargs={
        "architectures": ["Model"],
        "chunk_size_feed_forward": 5,
        "dtype": "float16",
        "id2label": {0: "label"},
        "label2id": {"label": 0},
        "output_attentions": True,
        "output_hidden_states": True,
        "problem_type": "regression",
        "return_dict": False,
    },
)
# What the suites would fetch from the Hub: a picture, and the tiny models of the pipelines (see `test_pipeline.py`).
HUB = tempfile.TemporaryDirectory(prefix="vtn-conformance-")
PICTURE = str(Path(HUB.name, "picture.png"))
Image.effect_mandelbrot((160, 120), (-2, -1.5, 1, 1.5), 100).convert("RGB").save(PICTURE)
_stand_in("fetch_hub_objects_for_ci", url_to_local_path=lambda url: PICTURE)
os.environ["TRANSFORMERS_TINY_MODEL_PATH"] = HUB.name
# The suites would import transformers a second time, from beside them.
transformers.utils.direct_transformers_import = lambda path: _Library("transformers")

# As if VTN were in the library: the suites look up here which model takes which labels.
MODEL_MAPPING_NAMES["vtn"] = "VTNModel"
MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES["vtn"] = "VTNForVideoClassification"
