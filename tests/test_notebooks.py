"""The notebooks run from the first cell to the last."""

import os
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
from test_documents import write_backbone

from drawn_videos.motion_clips import write_motion_clips


EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_motion_clips(tmp_path / "videos", num_train=20, num_val=10, num_workers=1)
    write_backbone(tmp_path / "backbone")
    commands = Path(sys.executable).parent
    for name, value in {
        "VIDEOS": tmp_path / "videos",
        "BACKBONE": tmp_path / "backbone",
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(EXAMPLES), os.environ.get("PYTHONPATH", "")]),
    }.items():
        monkeypatch.setenv(name, str(value))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    assert (tmp_path / "runs/notebook/model/report/index.html").is_file()
