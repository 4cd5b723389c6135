"""
A published VTN works for someone who has transformers, but not this package, and each checkpoint runs its own code or
says that it does not. The real client speaks to a Hub on loopback, in processes of its own: `huggingface_hub` and
transformers read where the Hub is when they are imported.
"""

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hub_server import TOKEN, HubServer, Repository
from huggingface_hub import ModelCard
from packaging.version import Version
from tiny_models import make_vit_vtn
from transformers import AutoModel, AutoModelForVideoClassification, pipeline
from transformers.utils import is_torchvision_available
from video_files import write_video

import vtn_hf
from vtn_hf import VTNForVideoClassification, VTNVideoProcessor


TESTS = Path(__file__).parent
CODE = {path.name for path in Path(vtn_hf.__file__).parent.glob("*_vtn.py")}
COMPLETE = CODE | {
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "README.md",
}


NO_HUB = "http://127.0.0.1:9"
# Unpacked there by `make test-slow`.
NEWEST_TRANSFORMERS = TESTS.parent / ".venv-transformers"


def start(
    script: str, *arguments: object, endpoint: str, home: Path, with_vtn_hf: bool, with_newest: bool = False
) -> subprocess.Popen:
    """
    Starts one of the scripts beside this file as a user of the Hub at `endpoint`.

    Without vtn_hf, the process sees the packages installed here, but none of the .pth files by which `pip install -e`
    makes vtn_hf one of them (`-S`).
    """
    paths = [] if with_vtn_hf else [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if is_torchvision_available():
        paths.append(str(Path(importlib.util.find_spec("torchvision").origin).parents[1]))
    if with_newest:
        paths.insert(0, str(NEWEST_TRANSFORMERS))
    if with_vtn_hf:
        paths.append(str(Path(vtn_hf.__file__).parents[1]))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment |= {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_TOKEN": TOKEN,
        "HF_HUB_OFFLINE": "0",
        # Xet, the Hub's newer store, has a protocol of its own; without it the client uses LFS.
        "HF_HUB_DISABLE_XET": "1",
        "PYTHONPATH": os.pathsep.join(paths),
    }
    flags = [] if with_vtn_hf else ["-S"]
    return subprocess.Popen(
        [sys.executable, *flags, str(TESTS / script), *map(str, arguments)],
        cwd=home,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **settings) -> str:
    """As [`start`], to the end; returns what was printed."""
    process = start(*arguments, **settings)
    output, errors = process.communicate(timeout=900)
    assert process.returncode == 0, errors[-4000:]
    return output


def find_transformers(newest: bool) -> str:
    """The version of transformers that a script is started with; skips the test where the newest is not there."""
    if not newest:
        return transformers.__version__
    found = list(importlib.metadata.distributions(name="transformers", path=[str(NEWEST_TRANSFORMERS)]))
    if not found:
        pytest.skip("`make test-slow` unpacks the newest transformers")
    return found[0].version


@pytest.fixture(scope="module")
def hub():
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    # More frames than the model takes: whoever reads the first ones only gives another answer.
    frames = np.random.default_rng(0).integers(0, 256, (20, 24, 30, 3), dtype=np.uint8)
    return write_video(tmp_path_factory.mktemp("clips") / "clip.mp4", frames)


@pytest.fixture(scope="module")
def published(hub, clip, tmp_path_factory) -> Path:
    """Publishes `tester/vtn` and `tester/trained`; the folder with what the publisher has."""
    folder = tmp_path_factory.mktemp("publisher")
    run("hub_publisher.py", clip, folder, endpoint=hub.endpoint, home=folder, with_vtn_hf=True)
    return folder


def read_json(files: dict[str, bytes], name: str) -> dict:
    return json.loads(files[name])


def test_push_to_hub_publishes_everything(hub, published):
    repository = hub.repositories["tester/vtn"]
    files = repository.head.files
    assert set(files) == COMPLETE | {".gitattributes"}
    assert repository.lfs_paths == {"model.safetensors"}
    # One commit for the model, one for the processors, none that holds a part of either.
    assert [commit.message for commit in repository.commits[1:]] == [
        "Upload VTNForVideoClassification",
        "Upload processor",
    ]
    assert read_json(files, "config.json")["vtn_hf_version"] == vtn_hf.__version__
    assert read_json(files, "config.json")["auto_map"] == {
        "AutoConfig": "configuration_vtn.VTNConfig",
        "AutoModel": "modeling_vtn.VTNModel",
        "AutoModelForVideoClassification": "modeling_vtn.VTNForVideoClassification",
    }
    for name, auto_map in {
        "preprocessor_config.json": {
            "AutoImageProcessor": "image_processing_vtn.VTNImageProcessor",
            "AutoVideoProcessor": "video_processing_vtn.VTNVideoProcessor",
        },
        "video_preprocessor_config.json": {"AutoVideoProcessor": "video_processing_vtn.VTNVideoProcessor"},
    }.items():
        assert read_json(files, name)["auto_map"] == auto_map
    for name in CODE:
        assert files[name] == (Path(vtn_hf.__file__).parent / name).read_bytes()


def test_a_local_save_is_as_complete_as_what_is_pushed(published):
    assert {path.name for path in (published / "local").iterdir()} == COMPLETE - {"README.md"}


def test_card_of_a_pushed_model(hub, published):
    text = hub.repositories["tester/vtn"].head.files["README.md"].decode()
    card = ModelCard(text)
    assert card.data.pipeline_tag == "video-classification"
    assert card.data.library_name == "transformers"
    assert card.data.license == "apache-2.0"
    assert 'model="tester/vtn", trust_remote_code=True' in text
    assert "automatically generated" not in text


def test_trainer_pushes_everything_and_its_results(hub, published):
    repository = hub.repositories["tester/trained"]
    files = repository.head.files
    assert set(files) >= COMPLETE
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == "facebook/dinov2-small"
    assert card.data.datasets == ["motion-clips"]
    assert [result.metric_name for result in card.data.eval_results] == [
        f"{name} (whole videos, up to 8 frames, one centre crop, 100.0% of the videos)" for name in ("top1", "top5")
    ]
    assert all(0 <= result.metric_value <= 1 for result in card.data.eval_results)
    # Whatever checkpoint is pushed in between can be loaded too.
    in_between = [commit for commit in repository.commits if commit.message.startswith("Training in progress")]
    assert in_between
    for commit in in_between:
        assert set(commit.files) >= COMPLETE - {"README.md"}


def test_reader_without_the_package(hub, published, clip, tmp_path):
    """The round trip: from the Hub, saved again, and loaded from there; in this world, with or without torchvision."""
    world = "torchvision" if is_torchvision_available() else "no torchvision"
    settings = {"home": tmp_path, "with_vtn_hf": False}
    expected = published / "expected.pt"
    printed = run("hub_reader.py", "tester/vtn", clip, expected, tmp_path / "again", endpoint=hub.endpoint, **settings)
    assert printed.splitlines()[-1] == world
    assert {path.name for path in (tmp_path / "again").iterdir()} == COMPLETE - {"README.md"}
    assert json.loads((tmp_path / "again/config.json").read_text())["vtn_hf_version"] == vtn_hf.__version__
    # From the folder of what was saved part by part, and of what the pipeline saved, with no Hub to ask.
    for folder in (tmp_path / "again", tmp_path / "again-pipeline"):
        run("hub_reader.py", folder, clip, expected, endpoint=NO_HUB, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("with_newest", [False, True], ids=["this transformers", "newest transformers"])
def test_checkpoint_under_another_transformers(published, clip, tmp_path, with_newest):
    """Its own code gives the same logits, and a pipeline, under the release it was written with and the newest."""
    version = find_transformers(with_newest)
    settings = {"endpoint": NO_HUB, "home": tmp_path, "with_vtn_hf": False, "with_newest": with_newest}
    arguments = ("hub_reader.py", published / "local", clip, published / "expected.pt", tmp_path / "again")
    printed = run(*arguments, **settings).splitlines()
    assert printed[-2] == version and Version(version) >= Version(transformers.__version__)
    # And what it saves comes back under the first one.
    run(*arguments[:1], tmp_path / "again", *arguments[2:4], **settings | {"with_newest": False})


def test_reader_of_a_trained_model(hub, published, clip, tmp_path):
    expected = torch.load(published / "expected.pt")
    with torch.no_grad():
        model = vtn_hf.VTNForVideoClassification.from_pretrained(published / "trained")
        torch.testing.assert_close(model(**expected["inputs"]).logits, expected["trained_logits"])
    weights = hub.repositories["tester/trained"].head.files["model.safetensors"]
    assert weights == (published / "trained/model.safetensors").read_bytes()


def test_interrupted_upload_leaves_the_repository_as_it_was(clip, tmp_path):
    arguments = ("hub_publisher.py", clip, tmp_path, "--model_only")
    settings = {"home": tmp_path, "with_vtn_hf": True}
    with HubServer() as hub:
        hub.stall_uploads = True
        process = start(*arguments, endpoint=hub.endpoint, **settings)
        has_started = hub.upload_started.wait(timeout=600)
        process.kill()
        _, errors = process.communicate()
        assert has_started, errors[-4000:]
        repository = hub.repositories["tester/vtn"]
        assert [commit.message for commit in repository.commits] == ["initial commit"]
        assert set(repository.head.files) == {".gitattributes"}
        assert not hub.large_files
        # And the same command, given again, publishes.
        hub.stall_uploads = False
        run(*arguments, endpoint=hub.endpoint, **settings)
        assert set(repository.head.files) > {"model.safetensors", "config.json", "modeling_vtn.py", "README.md"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_vit_vtn(num_frames=8).save_pretrained(folder)
    VTNVideoProcessor(num_frames=8, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


# What someone adds to three files: their classes say where they come from.
CHANGES = {
    "modeling_vtn.py": "\nVTNModel.origin = VTNForVideoClassification.origin = {origin!r}\n",
    "image_processing_vtn.py": "\nVTNImageProcessor.origin = {origin!r}\n",
    "video_processing_vtn.py": "\nVTNVideoProcessor.origin = {origin!r}\n",
}


def change_code(checkpoint: Path, folder: Path, origin: str) -> Path:
    """A copy in which someone has changed three files."""
    shutil.copytree(checkpoint, folder)
    for name, change in CHANGES.items():
        with open(folder / name, "a") as code:
            code.write(change.format(origin=origin))
    return folder


@pytest.mark.parametrize("with_newest", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_checkpoint_runs_its_own_code(hub, checkpoint, forks, tmp_path, with_newest):
    """Whatever was loaded before, and though folders have the same name and the same configuration_vtn.py."""
    find_transformers(with_newest)
    names = ["x/model", "y/model", "changed"]
    x, y, changed = (change_code(checkpoint, tmp_path / name, origin=name) for name in names)
    settings = {"endpoint": hub.endpoint, "home": tmp_path, "with_vtn_hf": False, "with_newest": with_newest}
    printed = run("hub_origins.py", x, y, *forks, f"{x}={changed}", y, **settings)
    expected = ["x/model", "y/model", None, "someone", "changed", "y/model"]
    assert json.loads(printed.splitlines()[-1]) == [[origin] for origin in expected]


@pytest.fixture
def forks(hub, published) -> tuple[str, str]:
    """Two repositories with other code in one."""
    files = dict(hub.repositories["tester/vtn"].head.files)
    for name in ("modeling_vtn.py", "image_processing_vtn.py", "video_processing_vtn.py"):
        files[name] += CHANGES[name].format(origin="someone").encode()
    hub.repositories["tester/changed"] = Repository()
    hub.repositories["tester/changed"].commit("A fork", files)
    return "tester/vtn", "tester/changed"


def read_warnings(caplog, load, *args, **kwargs) -> list[str]:
    transformers.utils.logging.warning_once.cache_clear()
    transformers.logging.enable_propagation()
    caplog.clear()
    try:
        with caplog.at_level("WARNING"):
            load(*args, **kwargs)
    finally:
        transformers.logging.disable_propagation()
    # Beside the weights of a head that `AutoModel` has no place for.
    return [message for message in caplog.messages if "LOAD REPORT" not in message]


def test_code_that_does_not_run_is_told(checkpoint, tmp_path, caplog):
    """Where vtn_hf is imported, transformers runs it whatever a checkpoint brings."""
    changed = change_code(checkpoint, tmp_path / "changed", origin="someone")
    loaders = [AutoModel.from_pretrained, AutoModelForVideoClassification.from_pretrained]
    loaders.append(lambda path, **kwargs: pipeline("video-classification", model=str(path), **kwargs))
    for load in loaders:
        assert read_warnings(caplog, load, checkpoint) == []
        assert read_warnings(caplog, load, checkpoint, trust_remote_code=True) == []
        names = "image_processing_vtn.py, modeling_vtn.py, video_processing_vtn.py"
        assert any(names in warning for warning in read_warnings(caplog, load, changed))
        with pytest.raises(ValueError, match=f"(?s){names}.*leave `trust_remote_code` out"):
            load(changed, trust_remote_code=True)
    for loaded_class in (VTNForVideoClassification, VTNVideoProcessor):
        assert len(read_warnings(caplog, loaded_class.from_pretrained, changed)) == 1


@pytest.mark.parametrize("version, is_told", [("0.0.1", False), ("99.0", True), ("mine", True)])
def test_code_of_another_release(checkpoint, tmp_path, caplog, version, is_told):
    """An earlier one gave the same answers; what a later one gives, this one cannot know."""
    changed = change_code(checkpoint, tmp_path / "changed", origin="release")
    code = (changed / "configuration_vtn.py").read_text()
    (changed / "configuration_vtn.py").write_text(code.replace(vtn_hf.__version__, version))
    warnings = read_warnings(caplog, VTNForVideoClassification.from_pretrained, changed)
    assert [f"brings code of vtn_hf {version}" in warning for warning in warnings] == [True] * is_told


def test_code_in_a_repository(hub, forks, tmp_path):
    settings = {"endpoint": hub.endpoint, "home": tmp_path, "with_vtn_hf": True}
    printed = run("hub_origins.py", *forks, **settings)
    assert "tester/changed brings code of vtn_hf" in printed and "imported here: image_processing_vtn.py" in printed
