"""What is left to look at after a run: curves, confusion matrix, a table of the classes, and a page with all of it."""

import csv
import importlib.util
from pathlib import Path

import numpy as np


# A matrix of more classes than this is drawn without their names, which would cover each other.
_MAX_NAMED_CLASSES = 40


def write_report(
    folder: str | Path,
    log_history: list[dict[str, float]],
    class_names: list[str],
    labels: np.ndarray,
    predictions: np.ndarray,
    metrics: dict[str, float],
    skipped: dict[str, str] | None = None,
) -> str:
    """
    Writes `report.md`, which shows the rest; `confusion_matrix.csv`, rows being the true classes; and, where
    matplotlib is installed, `curves.png` and `confusion_matrix.png`.

    Args:
        folder (`str` or `Path`): Is made if it is not there.
        log_history (`list[dict]`): `trainer.state.log_history`.
        class_names (`list[str]`): In the order of the labels.
        labels (`np.ndarray` of shape `(videos,)`): The class of each evaluated video.
        predictions (`np.ndarray` of shape `(videos,)`): The class it was taken for.
        metrics (`dict[str, float]`): What else to show: accuracies, times.
        skipped (`dict[str, str]`, *optional*): The videos that could not be read, with the reason.

    Returns:
        `str`: The page, as Markdown.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    confusion = np.zeros((len(class_names), len(class_names)), dtype=np.int64)
    np.add.at(confusion, (labels, predictions), 1)
    with (folder / "confusion_matrix.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["", *class_names])
        rows.writerows([name, *counts] for name, counts in zip(class_names, confusion.tolist(), strict=True))

    has_pictures = importlib.util.find_spec("matplotlib") is not None
    if has_pictures:
        plot_curves(log_history, folder / "curves.png")
        plot_confusion(confusion, class_names, folder / "confusion_matrix.png")
    page = "\n".join(
        [
            "# Report",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {name} | {value:.4g} |" for name, value in metrics.items()),
            "",
            "## Curves and confusion matrix",
            "",
            "![Curves](curves.png) ![Confusion matrix](confusion_matrix.png)"
            if has_pictures
            else "No pictures: they need matplotlib, `pip install matplotlib`.",
            "",
            "## Classes",
            "",
            format_classes(confusion, class_names),
            "",
            f"## Videos that could not be read: {len(skipped or {})}",
            "",
            *(f"- {path}: {reason}" for path, reason in (skipped or {}).items()),
            "",
        ]
    )
    (folder / "report.md").write_text(page, encoding="utf-8")
    return page


def format_classes(confusion: np.ndarray, class_names: list[str]) -> str:
    """
    A Markdown table with a row per class: videos of the class, the share of them that was recognised, the share of the
    videos taken for the class that are of it, and what it is taken for most often beside itself.
    """
    lines = ["| class | videos | recall | precision | most often taken for |", "| --- | --- | --- | --- | --- |"]
    for index, name in enumerate(class_names):
        wrong = np.where(np.arange(len(class_names)) == index, 0, confusion[index])
        hits, total, taken = confusion[index, index], confusion[index].sum(), confusion[:, index].sum()
        recall, precision = (f"{hits / count:.3f}" if count else "–" for count in (total, taken))
        mistake = f"{class_names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else "–"
        lines.append(f"| {name} | {total} | {recall} | {precision} | {mistake} |")
    return "\n".join(lines)


def plot_curves(log_history: list[dict[str, float]], path: str | Path):
    """Draws the loss of each log, and loss and accuracy of each evaluation, over the epochs."""
    plt = _import_pyplot()
    figure, (loss_axes, accuracy_axes) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for axes, name, label, style in (
        (loss_axes, "loss", "training", "-"),
        (loss_axes, "eval_loss", "held-out", "o-"),
        (accuracy_axes, "eval_top1", "held-out top-1", "o-"),
        (accuracy_axes, "eval_top5", "held-out top-5", "o-"),
    ):
        points = [(entry["epoch"], entry[name]) for entry in log_history if name in entry]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label)
            axes.legend()
    loss_axes.set(xlabel="epoch", ylabel="loss")
    accuracy_axes.set(xlabel="epoch", ylabel="accuracy", ylim=(0, 1.02))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def plot_confusion(confusion: np.ndarray, class_names: list[str], path: str | Path):
    """Draws, for each true class (row), the share of its videos that was taken for each class (column)."""
    plt = _import_pyplot()
    side = 3 + 0.25 * min(len(class_names), _MAX_NAMED_CLASSES)
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    figure.colorbar(axes.imshow(shares, vmin=0, vmax=1, cmap="viridis"), shrink=0.8)
    axes.set(xlabel="taken for", ylabel="class")
    if len(class_names) <= _MAX_NAMED_CLASSES:
        axes.set_xticks(range(len(class_names)), class_names, rotation=90)
        axes.set_yticks(range(len(class_names)), class_names)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _import_pyplot():
    import matplotlib

    matplotlib.use("Agg")  # pictures go into files, also where there is a screen
    import matplotlib.pyplot as plt

    return plt
