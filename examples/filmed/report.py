"""Tables of what filmed_videos.py found."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from vtn_hf.training.metrics import CalibrationError, MeanClassAccuracy


def write_report(lines: list[dict], labels: np.ndarray, output_dir: Path, folds: list[int]):
    """Writes `report.json` and prints a table: top-1 of these folds together, mean and deviation over the seeds."""
    rows = summarize([line for line in lines if line["fold"] in folds], labels, output_dir, len(folds))
    (output_dir / "report.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    print(
        "| | seeds | top-1 | with mirror image | five halves averaged | classes averaged | calibration error "
        "| minutes of training | s per video |"
    )
    print("| --- " * 9 + "|")
    for row in rows:
        names = ("top1", "mirrored", "parts", "mean_class_accuracy", "calibration_error")
        minutes = f"{np.mean(row['train_sec']) / 60:.2f}"
        seconds = "–" if row["sec_per_video"] is None else f"{row['sec_per_video']:.3f}"
        cells = [len(row["seeds"]), *(format_spread(row[name]) for name in names), minutes, seconds]
        print(f"| {row['variant']} ({row['protocol']}) | {' | '.join(map(str, cells))} |")


def summarize(lines: list[dict], labels: np.ndarray, output_dir: Path, num_folds: int) -> list[dict]:
    """One row for each variant and protocol, with a figure for each seed whose folds are all there."""
    seeds = defaultdict(lambda: defaultdict(list))
    for line in lines:
        seeds[line["protocol"], line["variant"]][line["seed"]].append(line)
    timings = output_dir / "seconds.json"
    seconds = json.loads(timings.read_text(encoding="utf-8")) if timings.is_file() else {}
    rows = []
    for (protocol, variant), cells in seeds.items():
        complete = {seed: folds for seed, folds in sorted(cells.items()) if len(folds) == num_folds}
        if not complete:
            continue
        row = {"variant": variant, "protocol": protocol, "seeds": list(complete)}
        row["sec_per_video"] = seconds.get(variant)
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
    scores = {way: np.concatenate(parts) for way, parts in scores.items() if len(parts) == len(folds)}
    whole = scores["whole"]
    figures = {"top1": float((whole.argmax(1) == own).mean())}
    for way in ("mirrored", "parts"):
        figures[way] = float((scores[way].argmax(1) == own).mean()) if way in scores else None
    figures |= MeanClassAccuracy().compute(predictions=whole, references=own)
    # Of kernel ridge there are no probabilities.
    figures |= (
        CalibrationError().compute(predictions=whole, references=own)
        if "num_parameters" in folds[0]
        else {"calibration_error": None}
    )
    return figures | {"train_sec": float(np.mean([line["train_sec"] for line in folds]))}


def format_spread(values: list[float | None]) -> str:
    if None in values:
        return "–"
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")
