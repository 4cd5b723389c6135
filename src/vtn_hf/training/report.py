"""
The report of an evaluation: one page, `index.html`, that needs neither a server nor a network, and its figures as CSV.
"""

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from ..data.coverage import NO_LABEL
from ..inference.attention import Look
from ..outputs import writing_folder
from ..video_decoding_vtn import VideoDecodeError
from .charts import draw_attention, draw_curves, draw_large_matrix, draw_matrix, embed_picture
from .metrics import mean_average_precision


# A matrix of more classes than this is drawn without their names, which would overlap.
_MAX_NAMED_CLASSES = 40
# Videos in each of the two lists of strips, and pictures in a strip.
_MAX_STRIPS = 8
_STRIP_FRAMES = 10
_CURVES = {
    "Loss": {"training": "loss", "held-out": "eval_loss"},
    "Held-out accuracy": {
        "top-1": "eval_top1",
        "top-5": "eval_top5",
        "mean over classes": "eval_mean_class_accuracy",
        "mean average precision": "eval_map",
    },
    "Learning rate": {"learning rate": "learning_rate"},
}


@dataclass
class Evaluation:
    """
    The labels of a collection of videos, and what a model predicts.

    Args:
        class_names (`list[str]`): Names of the classes, in the order of the labels.
        video_names (`Sequence[str]`): Names of the videos.
        labels (`np.ndarray` of shape `(videos,)` or `(videos, classes)`): The class of each video; with several labels
            per video 0 or 1 for each class; -100 for a video that could not be read.
        scores (`np.ndarray` of shape `(videos, classes)`): Probabilities.

    Raises:
        ValueError: If the shapes do not belong together.
    """

    class_names: list[str]
    video_names: Sequence[str]
    labels: np.ndarray
    scores: np.ndarray

    def __post_init__(self):
        self.labels, self.scores = np.asarray(self.labels), np.asarray(self.scores)
        shape = (len(self.video_names), len(self.class_names))
        if self.scores.shape != shape or self.labels.shape not in (shape, shape[:1]):
            raise ValueError(
                f"{shape[0]} videos of {shape[1]} classes need scores {shape} and as many labels, got scores "
                f"{self.scores.shape} and labels {self.labels.shape}."
            )

    @property
    def is_multi_label(self) -> bool:
        """Whether a video may have several labels, or none."""
        return self.labels.ndim == 2

    @property
    def is_covered(self) -> np.ndarray:
        """`(videos,)`: whether a video could be read."""
        return (self.labels != NO_LABEL).reshape(len(self.labels), -1).all(axis=1)

    @property
    def is_true(self) -> np.ndarray:
        """`(videos, classes)`: the labels."""
        return self.labels > 0 if self.is_multi_label else np.arange(len(self.class_names)) == self.labels[:, None]

    @property
    def is_predicted(self) -> np.ndarray:
        """`(videos, classes)`: the best class, or with several labels per video those of at least 0.5."""
        if self.is_multi_label:
            return self.scores >= 0.5
        return np.arange(len(self.class_names)) == self.scores.argmax(axis=1)[:, None]

    @property
    def certainty(self) -> np.ndarray:
        """`(videos,)`: the probability of the best class; with several labels, that of the least clear decision."""
        if self.is_multi_label:
            return np.maximum(self.scores, 1 - self.scores).min(axis=1)
        return self.scores.max(axis=1)

    def list_wrong(self) -> np.ndarray:
        """The numbers of the videos with other classes than predicted, the most certain ones first."""
        wrong = np.flatnonzero((self.is_true != self.is_predicted).any(axis=1) & self.is_covered)
        return wrong[np.argsort(-self.certainty[wrong], kind="stable")]

    def list_uncertain(self) -> np.ndarray:
        """The numbers of all videos, the least certain ones first."""
        covered = np.flatnonzero(self.is_covered)
        return covered[np.argsort(self.certainty[covered], kind="stable")]

    def count_confusions(self) -> np.ndarray:
        """`(classes, classes)`: videos by true class (row) and by the class they were taken for; one label each."""
        counts = np.zeros((len(self.class_names),) * 2, dtype=np.int64)
        covered = self.is_covered
        np.add.at(counts, (self.labels[covered], self.scores[covered].argmax(axis=1)), 1)
        return counts

    def name_classes(self, is_chosen: np.ndarray) -> str:
        """The names of the classes that a mask `(classes,)` chooses, in one string."""
        return "; ".join(np.array(self.class_names, dtype=object)[is_chosen])


def write_report(
    folder: str | os.PathLike,
    evaluation: Evaluation,
    log_history: Iterable[dict[str, float]] = (),
    metrics: dict[str, float] | None = None,
    coverage: dict[str, dict] | None = None,
    look: Callable[[int], Look] | None = None,
) -> Path:
    """
    Writes `index.html`, which shows everything and whose path is returned; `classes.csv` and `wrong_predictions.csv`;
    and, where each video has one label, `confusion_matrix.csv`, rows being the true classes.

    Args:
        folder (`str` or `os.PathLike`): Where to write it; it is made if it is not there.
        evaluation (`Evaluation`): Labels and predictions.
        log_history (`Iterable[dict]`, *optional*): `trainer.state.log_history`, for the curves.
        metrics (`dict[str, float]`, *optional*): Other figures to show, such as accuracies and times, by their names.
        coverage (`dict[str, dict]`, *optional*): Of each split, what [`report_coverage`] gives.
        look (`Callable`, *optional*): Gives the [`Look`] at the video of a number, for strips of the wrong and the
            least certain videos, as [`look_at_example`] does.
    """
    classes, wrong = describe_classes(evaluation), evaluation.list_wrong()
    page = _load_template().render(
        title=Path(folder).resolve().parent.name,
        metrics={name: f"{value:.4g}" for name, value in (metrics or {}).items()},
        curves=_draw_all_curves(list(log_history)),
        matrix=None if evaluation.is_multi_label else _draw_confusions(evaluation),
        classes=classes,
        num_wrong=len(wrong),
        num_videos=int(evaluation.is_covered.sum()),
        strips={} if look is None else _make_strips(evaluation, wrong, look),
        coverage=coverage or {},
    )
    with writing_folder(Path(folder)) as unfinished:
        (unfinished / "index.html").write_text(page, encoding="utf-8")
        _write_csv(unfinished / "classes.csv", [list(classes[0]), *(row.values() for row in classes)])
        _write_csv(unfinished / "wrong_predictions.csv", _list_wrong_predictions(evaluation, wrong))
        if not evaluation.is_multi_label:
            _write_csv(unfinished / "confusion_matrix.csv", _list_confusions(evaluation))
    return Path(folder, "index.html")


def describe_classes(evaluation: Evaluation) -> list[dict[str, Any]]:
    """
    A row per class: `class`; `videos` that have it; `recall`, the share of them that was recognised; `precision`, the
    share of those taken for it that have it; then `most often taken for`, or with several labels per video `average
    precision`. What has no videos to be computed from is `None`.
    """
    covered = evaluation.is_covered
    is_true, is_predicted, scores = (
        values[covered] for values in (evaluation.is_true, evaluation.is_predicted, evaluation.scores)
    )
    rows = []
    for index, name in enumerate(evaluation.class_names):
        true, predicted = is_true[:, index], is_predicted[:, index]
        hits = (true & predicted).sum()
        row = {
            "class": name,
            "videos": int(true.sum()),
            "recall": _divide(hits, true.sum()),
            "precision": _divide(hits, predicted.sum()),
        }
        if evaluation.is_multi_label:
            own = slice(index, index + 1)
            row["average precision"] = mean_average_precision(scores[:, own], is_true[:, own]) if true.any() else None
        else:
            taken_for = is_predicted[true & ~predicted].sum(axis=0)
            mistake = taken_for.argmax()
            row["most often taken for"] = (
                f"{evaluation.class_names[mistake]} ({taken_for[mistake]})" if taken_for.any() else None
            )
        rows.append(row)
    return rows


def _divide(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _draw_all_curves(log_history: list[dict[str, float]]) -> list[Markup]:
    """A chart for each kind of figure that was logged."""
    charts = []
    for title, keys in _CURVES.items():
        # An evaluation at the end of an epoch and a last one after it have the same place.
        curves = {
            name: list({entry["epoch"]: entry[key] for entry in log_history if key in entry}.items())
            for name, key in keys.items()
        }
        charts.append(draw_curves(title, "epoch", curves, y_max=1.0 if "accuracy" in title else None))
    return [chart for chart in charts if chart]


def _draw_confusions(evaluation: Evaluation) -> Markup:
    counts, names = evaluation.count_confusions(), evaluation.class_names
    return draw_matrix(counts, names) if len(names) <= _MAX_NAMED_CLASSES else draw_large_matrix(counts)


def _make_strips(evaluation: Evaluation, wrong: np.ndarray, look: Callable[[int], Look]) -> dict[str, list]:
    """The two lists of strips, by their titles: the wrong videos, and the least certain ones of the others."""
    shown = wrong[:_MAX_STRIPS]
    others = [number for number in evaluation.list_uncertain() if number not in shown][:_MAX_STRIPS]
    return {
        "Wrong, the most certain first": [_describe(evaluation, each, look) for each in shown],
        "Least certain of the others": [_describe(evaluation, each, look) for each in others],
    }


def _describe(evaluation: Evaluation, number: int, look: Callable[[int], Look]) -> dict[str, Any]:
    """What the page shows of a video: its classes, and frames above the attention to them, or why there are none."""
    video: dict[str, Any] = {
        "name": evaluation.video_names[number],
        "actual": evaluation.name_classes(evaluation.is_true[number]),
        "best": [
            (evaluation.class_names[label], f"{evaluation.scores[number, label]:.3f}")
            for label in np.argsort(-evaluation.scores[number], kind="stable")[:3]
        ],
    }
    try:
        seen = look(int(number))
    except (VideoDecodeError, OSError, ValueError) as error:
        return video | {"reason": str(error)}
    shown = seen.choose_frames(_STRIP_FRAMES)
    frames = [(embed_picture(seen.pictures[frame]), f"{seen.times[frame]:.1f}") for frame in shown]
    return video | {"frames": frames, "attention": draw_attention(seen.mean_attention, shown)}


def _list_wrong_predictions(evaluation: Evaluation, wrong: np.ndarray) -> list[list]:
    """The rows of `wrong_predictions.csv`."""
    rows: list[list] = [["video", "class", "predicted", "certainty"]]
    for number in wrong:
        classes = (evaluation.name_classes(each[number]) for each in (evaluation.is_true, evaluation.is_predicted))
        rows.append([evaluation.video_names[number], *classes, f"{evaluation.certainty[number]:.6f}"])
    return rows


def _list_confusions(evaluation: Evaluation) -> list[list]:
    """The rows of `confusion_matrix.csv`."""
    names, counts = evaluation.class_names, evaluation.count_confusions().tolist()
    return [["", *names], *([name, *row] for name, row in zip(names, counts, strict=True))]


def _write_csv(path: Path, rows: Iterable[Iterable]):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def _load_template() -> jinja2.Template:
    """Names of classes and files are text: everything that is put into the page is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html")
