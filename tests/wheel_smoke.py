"""
What `make wheel` runs where nothing but the wheel is installed: from videos on disk to a report, by hand and with
`vtn new`, without the sources.

    python tests/wheel_smoke.py
"""

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path


# The drawn videos and the tiny model lie beside the package, not in it; the package itself must be the installed one.
TESTS = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() not in (TESTS.parent, TESTS.parent / "src")]
sys.path += [str(TESTS), str(TESTS.parent / "examples")]
os.environ["HF_HUB_OFFLINE"] = "1"

from tiny_models import make_vit_vtn  # noqa: E402
from transformers import Dinov2Config, Dinov2Model, pipeline  # noqa: E402

import vtn_hf  # noqa: E402
from drawn_videos.motion_clips import write_motion_clips  # noqa: E402 - the paths come first
from vtn_hf.data.class_names import read_kinetics_labels  # noqa: E402
from vtn_hf.data.clips import ClipTransform, collate_videos  # noqa: E402
from vtn_hf.data.collection import read_collection  # noqa: E402
from vtn_hf.inference.attention import look_at_example  # noqa: E402
from vtn_hf.inference.whole_video import to_scores  # noqa: E402
from vtn_hf.training.report import Evaluation, write_report  # noqa: E402


def main():
    """Classifies ten drawn clips, and writes the report of it."""
    package = Path(vtn_hf.__file__).parent
    if "site-packages" not in package.parts:
        raise SystemExit(f"This is not the installed package: {package}.")
    if not (package / "py.typed").is_file() or len(read_kinetics_labels(700)) != 700:
        raise SystemExit("The wheel lacks files.")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        videos = read_collection(write_motion_clips("videos", num_train=1, num_val=10)).videos["val"]
        class_names = videos.features["label"].names
        model = make_vit_vtn(id2label=dict(enumerate(class_names)), num_frames=8)
        square = {"height": 16, "width": 16}
        processor = vtn_hf.VTNVideoProcessor(size=square, crop_size=square, num_frames=8)
        model.save_pretrained("model")
        processor.save_pretrained("model")

        batch = collate_videos([*videos.with_transform(ClipTransform(processor))])
        labels = batch.pop("labels").numpy()
        scores = to_scores(model, model(**batch).logits).detach().numpy()
        best = pipeline("video-classification", model="model")(videos[0]["video"]["path"])[0]
        if abs(best["score"] - scores[0].max()) > 1e-4:
            raise SystemExit(f"The pipeline says {best}, the model {scores[0].max()}.")
        evaluation = Evaluation(class_names, videos["name"][:], labels, scores)
        page = write_report("report", evaluation, look=partial(look_at_example, model, processor, videos))
        print(f"{len(videos)} videos, {best}, {page} of {page.stat().st_size:,} bytes.")
        make_classifier(processor)


def make_classifier(processor: vtn_hf.VTNVideoProcessor):
    """`vtn new` on ten clips of two classes, with a tiny image model."""
    drawn = write_motion_clips("drawn", num_train=50, num_val=0)
    for name in ("moving up", "growing"):
        shutil.copytree(drawn / "train" / name, Path("TEN", name))
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained("BACKBONE")
    processor.save_pretrained("BACKBONE")
    command = Path(sys.executable).with_name("vtn")
    flags = ["--data_dir", "TEN", "--output_dir", "MINE", "--backbone_name_or_path", "BACKBONE", "--num_workers", "1"]
    subprocess.run([command, "new", *flags], check=True)
    subprocess.run([command, "classify", "--model", "MINE", "TEN", "--output", "scores.csv"], check=True)
    video = next(Path("TEN").rglob("*.mp4"))
    names = {each["label"] for each in pipeline("video-classification", model="MINE")(str(video))}
    if names != {"moving up", "growing"} or not Path("MINE/report/index.html").is_file():
        raise SystemExit(f"MINE tells {names}.")


if __name__ == "__main__":
    main()
