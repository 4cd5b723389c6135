"""Tables of what filmed_videos.py found."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from vtn_hf.training.metrics import CalibrationError, MeanClassAccuracy


def write_report(lines: list[dict], labels: np.ndarray, output_dir: Path):
    """Writes `report.json` and prints a table: top-1 of all folds together, mean and deviation over the seeds."""
    rows = summarize(lines, labels, output_dir)
    (output_dir / "report.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print("| | seeds | top-1 | five halves averaged | classes averaged | calibration error | minutes of training |")
    print("| --- " * 7 + "|")
    for row in rows:
        figures = [format_spread(row[name]) for name in ("top1", "parts", "mean_class_accuracy", "calibration_error")]
        minutes = f"{np.mean(row['train_sec']) / 60:.2f}"
        print(f"| {row['variant']} ({row['protocol']}) | {len(row['seeds'])} | {' | '.join(figures)} | {minutes} |")


def summarize(lines: list[dict], labels: np.ndarray, output_dir: Path) -> list[dict]:
    """One row for each variant and protocol, with a figure for each seed whose folds are all there."""
    num_folds = 1 + max((line["fold"] for line in lines), default=0)
    seeds = defaultdict(lambda: defaultdict(list))
    for line in lines:
        seeds[line["protocol"], line["variant"]][line["seed"]].append(line)
    rows = []
    for (protocol, variant), cells in seeds.items():
        complete = {seed: folds for seed, folds in sorted(cells.items()) if len(folds) == num_folds}
        if not complete:
            continue
        row = {"variant": variant, "protocol": protocol, "seeds": list(complete)}
        figures = [measure(variant, seed, folds, labels, output_dir) for seed, folds in complete.items()]
        rows.append(row | {name: [each[name] for each in figures] for name in figures[0]})
    return rows


def measure(variant: str, seed: int, folds: list[dict], labels: np.ndarray, output_dir: Path) -> dict[str, float]:
    """The figures of a seed, over the videos of all folds."""
    test, scores = [], defaultdict(list)
    for line in folds:
        with np.load(output_dir / "scores" / line["protocol"] / f"{variant}_{seed}_{line['fold']}.npz") as arrays:
            test.append(arrays["test"])
            for way in arrays.keys() - {"test"}:
                scores[way].append(arrays[way])
    own = labels[np.concatenate(test)]
    scores = {way: np.concatenate(parts) for way, parts in scores.items()}
    whole = scores["whole"]
    figures = {"top1": float((whole.argmax(1) == own).mean())}
    figures["parts"] = float((scores["parts"].argmax(1) == own).mean()) if "parts" in scores else None
    figures |= MeanClassAccuracy().compute(predictions=whole, references=own)
    # Of kernel ridge there are no probabilities.
    figures |= (
        CalibrationError().compute(predictions=whole, references=own)
        if "parts" in scores
        else {"calibration_error": None}
    )
    return figures | {"train_sec": float(np.mean([line["train_sec"] for line in folds]))}


def format_spread(values: list[float | None]) -> str:
    if None in values:
        return "–"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
