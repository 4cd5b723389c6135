"""The report of a run: what it counts and what it shows."""

import csv
import html
import re
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from tiny_models import make_vit_vtn

from drawn_videos.motion_clips import CLASS_NAMES, write_motion_clips
from vtn_hf import VTNVideoProcessor
from vtn_hf.configs import find_config
from vtn_hf.data.clips import ClipTransform, collate_videos
from vtn_hf.data.collection import read_collection
from vtn_hf.inference.attention import look_at_example
from vtn_hf.training.report import Evaluation, describe_classes, write_report


NAMES = ["jump", "run", "sit"]
LABELS = np.array([0, 0, 0, 1, -100, 1])
SCORES = np.array(
    [[0.8, 0.1, 0.1], [0.1, 0.9, 0.0], [0.3, 0.4, 0.3], [0.3, 0.5, 0.2], [0.0, 0.0, 1.0], [0.05, 0.95, 0.0]]
)
VIDEOS = ["a.mp4", "b.mp4", "c.mp4", "d.mp4", "e.mp4", "f.mp4"]
EVALUATION = Evaluation(NAMES, VIDEOS, LABELS, SCORES)
LOG = [
    {"epoch": 0.5, "loss": 2.0, "learning_rate": 0.1, "step": 1},
    *({"epoch": epoch / 10, "eval_loss": 1 / epoch, "eval_top1": epoch / 10, "step": epoch} for epoch in range(1, 11)),
    {"epoch": 1.0, "eval_loss": 0.05, "eval_top1": 0.5, "step": 10},
]
# What ends a cell, a line, a formula, an attribute, a script.
NASTY = [
    "a|b",
    "two\nlines",
    "<script>alert(1)</script>",
    'x" onload="alert(1)',
    "$\\frac{1}{2}$ & $5",
    "=1+1, {{ 7*7 }}",
]


def read_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_files_count_each_video_that_was_read(tmp_path: Path):
    assert write_report(tmp_path / "report", EVALUATION, LOG) == tmp_path / "report/index.html"

    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "index.html",
        "classes.csv",
        "confusion_matrix.csv",
        "wrong_predictions.csv",
    }
    assert read_csv(tmp_path / "report/confusion_matrix.csv") == [
        ["", *NAMES],
        ["jump", "1", "2", "0"],
        ["run", "0", "2", "0"],
        ["sit", "0", "0", "0"],
    ]
    assert read_csv(tmp_path / "report/wrong_predictions.csv") == [
        ["video", "class", "predicted", "certainty"],
        ["b.mp4", "jump", "run", "0.900000"],
        ["c.mp4", "jump", "run", "0.400000"],
    ]


def test_classes_with_their_mistakes():
    jump, run, sit = describe_classes(EVALUATION)
    assert list(jump.values()) == ["jump", 3, 1 / 3, 1.0, "run (2)"]
    assert list(run.values()) == ["run", 2, 1.0, 0.5, None]
    assert list(sit.values()) == ["sit", 0, None, None, None]


def test_several_labels_per_video(tmp_path: Path):
    labels = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0], [-100, -100, -100]])
    scores = np.array([[0.9, 0.8, 0.1], [0.6, 0.4, 0.1], [0.1, 0.2, 0.1], [0.9, 0.9, 0.9]])
    evaluation = Evaluation(NAMES, VIDEOS[:4], labels, scores)
    write_report(tmp_path, evaluation)

    assert [list(row.values()) for row in describe_classes(evaluation)] == [
        ["jump", 1, 1.0, 0.5, 1.0],
        ["run", 2, 0.5, 1.0, 1.0],
        ["sit", 0, None, None, None],
    ]
    assert read_csv(tmp_path / "wrong_predictions.csv")[1:] == [["b.mp4", "run", "jump", "0.600000"]]
    assert not (tmp_path / "confusion_matrix.csv").exists()


def test_the_page_has_all_points_of_the_curves(tmp_path: Path):
    page = write_report(tmp_path, EVALUATION, LOG, {"eval_top1": 0.6}).read_text()
    assert len(re.findall(r"<title>held-out: ", page)) == 10  # the last evaluation is shown once
    assert "held-out: 0.05 at 1" in page and "held-out: 0.1 at 1<" not in page
    assert "<b>0.6</b><span>eval_top1</span>" in page
    # Nothing comes from elsewhere.
    assert not re.findall(r"(?:src|href)=\"(?!#|data:|\w+\.csv\")", page)


def test_coverage_is_shown(tmp_path: Path):
    damaged = [{"video": "bad.mp4", "reason": "cut off", "times": 2}]
    coverage = {"val": {"annotated": 8, "used": 6, "coverage": 0.75, "missing": ["gone.mp4"], "damaged": damaged}}
    page = write_report(tmp_path, EVALUATION, coverage=coverage).read_text()
    for text in ("75.0 % of 8 videos used", "1 missing, 1 could not be read", "<b>bad.mp4</b>: cut off", "gone.mp4"):
        assert text in page


def test_names_are_text_wherever_they_stand(tmp_path: Path):
    labels = np.arange(len(NASTY))
    scores = np.roll(np.eye(len(NASTY)), 1, axis=1)

    def look(number: int):
        raise ValueError(NASTY[number])

    coverage = {name: {"annotated": 1, "coverage": 1.0, "missing": [name], "damaged": []} for name in NASTY}
    evaluation = Evaluation(NASTY, [f"{name}.mp4" for name in NASTY], labels, scores)
    page = write_report(tmp_path, evaluation, (), dict.fromkeys(NASTY, 1.0), coverage, look).read_text()
    assert page.count("<script>") == 1 and 'onload="' not in page
    for name in NASTY:
        assert page.count(html.escape(name).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")) >= 6
    assert [row[:3] for row in read_csv(tmp_path / "wrong_predictions.csv")[1:]] == [
        [f"{name}.mp4", name, NASTY[(number + 1) % len(NASTY)]] for number, name in enumerate(NASTY)
    ]


def test_many_classes_and_videos_make_no_large_page(tmp_path: Path):
    labels = np.arange(4000) % 400
    scores = np.random.default_rng(0).dirichlet(np.ones(400), size=4000)
    page = write_report(tmp_path, Evaluation([str(label) for label in range(400)], labels.astype(str), labels, scores))
    assert page.stat().st_size < 300_000
    assert len(read_csv(tmp_path / "wrong_predictions.csv")) > 3900


def test_figures_that_are_not_finite_are_left_out(tmp_path: Path):
    log = [{"epoch": 1.0, "loss": float("nan")}, {"epoch": 2.0, "loss": 1.0}, {"epoch": 3.0, "loss": float("inf")}]
    log.append({"epoch": 4.0, "loss": 0.5})
    page = write_report(tmp_path, EVALUATION, log).read_text()
    assert page.count("<title>training: ") == 2 and "nan" not in page.lower().replace("nand", "")


def test_one_evaluation_is_no_curve(tmp_path: Path):
    page = write_report(tmp_path, EVALUATION, [{"epoch": 2.0, "eval_top1": 0.5}]).read_text()
    assert "<figcaption>Held-out accuracy" not in page


def test_shapes_that_do_not_belong_together_are_refused():
    with pytest.raises(ValueError, match=r"6 videos of 2 classes need scores \(6, 2\).*got scores \(6, 3\)"):
        Evaluation(NAMES[:2], VIDEOS, LABELS, SCORES)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    root = write_motion_clips(tmp_path_factory.mktemp("clips") / "motion", num_train=1, num_val=10, num_workers=1)
    return read_collection(root, list(CLASS_NAMES)).videos["val"]


@pytest.fixture(scope="module")
def processor() -> VTNVideoProcessor:
    square = {"height": 16, "width": 16}
    return VTNVideoProcessor(size=square, crop_size=square, num_frames=20)


def test_wrong_and_uncertain_videos_are_strips_of_their_frames(tmp_path: Path, videos, processor):
    model = make_vit_vtn(num_labels=len(CLASS_NAMES))
    dataset = videos.with_transform(ClipTransform(processor))
    logits = torch.cat([model(**collate_videos([dataset[number]])).logits for number in range(len(dataset))])
    evaluation = Evaluation(CLASS_NAMES, videos["name"][:], videos["label"][:], logits.softmax(dim=1).detach().numpy())
    page = write_report(tmp_path, evaluation, look=partial(look_at_example, model, processor, dataset)).read_text()

    shown = min(len(evaluation.list_wrong()), 8) + 10 - min(len(evaluation.list_wrong()), 8)
    assert page.count('<svg class="attention"') == shown and page.count('<img src="data:image/jpeg') == 10 * shown


def test_videos_that_are_gone_are_named_with_the_reason(tmp_path: Path, videos, processor):
    gone = videos.map(lambda row: {"video": {"path": "gone.mp4", "bytes": None}})
    look = partial(look_at_example, make_vit_vtn(num_labels=10), processor, gone)
    evaluation = Evaluation(list(CLASS_NAMES), videos["name"][:], videos["label"][:], np.eye(10)[::-1])
    page = write_report(tmp_path, evaluation, look=look).read_text()
    assert page.count("No pictures: ") == 10 and "gone.mp4" in page


@pytest.mark.parametrize("name", ["cached_features", "kinetics400", "kinetics400_modern"])
def test_recipes_give_curves_ten_points(name: str):
    settings = yaml.safe_load(find_config("recipes", name).read_text())
    num_points = settings["num_train_epochs"] if settings["eval_strategy"] == "epoch" else 1 / settings["eval_steps"]
    assert num_points >= 10


def test_the_page_in_a_browser(tmp_path: Path, videos, processor, browser):
    names = [*NASTY, *CLASS_NAMES[len(NASTY) :]]
    page = write_report(
        tmp_path,
        Evaluation(names, [f"{name}.mp4" for name in names], np.arange(10), np.roll(np.eye(10), 1, axis=1)),
        LOG,
        look=partial(look_at_example, make_vit_vtn(num_labels=10), processor, videos),
    )
    view, told, requests = browser.new_page(), [], []
    for event in ("dialog", "pageerror", "requestfailed"):
        view.on(event, lambda each: told.append(each))
    view.on("request", lambda request: requests.append(request.url))
    view.goto(page.as_uri())

    widths = view.evaluate("[...document.images].map(image => image.complete && image.naturalWidth)")
    assert widths == [16] * 100
    shown = {" ".join(name.split()) for name in names}
    assert {each.inner_text() for each in view.query_selector_all(".matrix th[scope=row]")} == shown
    view.click("#class_table th:nth-child(1)")
    column = [each.inner_text() for each in view.query_selector_all("#class_table td:nth-child(1)")]
    assert {*column} == shown and column[-1].startswith('x" onload')
    assert not told and all(url.startswith(("file:", "data:")) for url in requests)
