"""The model card of a VTN: what it is, how it was made, how to use it."""

import html
import json
import os
import re
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .configuration_vtn import VTNConfig


_USE = """## Use

```bash
pip install transformers torch av pillow
```

```python
from transformers import pipeline

classify = pipeline("video-classification", model={model_id}, trust_remote_code=True)
classify("video.mp4")
```

The Python files beside the weights are the model's own code. Where the package `vtn_hf` is installed, `import vtn_hf`
takes the place of `trust_remote_code=True`.
"""


def escape(text: str) -> str:
    """Has a name of a class or a file mean nothing to Markdown, HTML and formulas, and stay on its line."""
    text = html.escape(_clean(text), quote=False)
    return re.sub(r"[\\`*{}\[\]#|$~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _clean(text: str) -> str:
    """On one line, without what cannot be printed, such as the bytes of a name that is not UTF-8."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())


def make_model_card(
    config: VTNConfig,
    model_id: str,
    *,
    base_model: str | None = None,
    dataset: str | None = None,
    metrics: dict[str, float] | None = None,
    protocol: str | None = None,
    training: str | None = None,
    license: str = "apache-2.0",
) -> ModelCard:
    """
    Writes the card of a video classifier.

    Args:
        config (`VTNConfig`): Of the model.
        model_id (`str`): What a reader passes to `pipeline`: a repository or a directory.
        base_model (`str`, *optional*): The model, or its backbone, that training started from. Only a repository is
            named in the metadata. Defaults to where the model or its backbone was loaded from.
        dataset (`str`, *optional*): What it was trained and evaluated on; without it, `metrics` stay out of the
            metadata.
        metrics (`dict[str, float]`, *optional*): Results on `dataset`, measured by us.
        protocol (`str`, *optional*): How `metrics` were measured: frames, crops, views.
        training (`str`, *optional*): How it came to be, in Markdown.
        license (`str`, *optional*, defaults to `"apache-2.0"`): Of the weights, as the Hub names it.

    Returns:
        `ModelCard`: With metadata as the Hub reads it: task, library, license, base model, datasets and results.

    Raises:
        ValueError: If it is not told how `metrics` were measured.
    """
    metrics = metrics or {}
    if metrics and not protocol:
        raise ValueError(f"The metrics {', '.join(metrics)} mean nothing without a `protocol`, got {protocol!r}.")
    title = _clean(Path(model_id).name)
    results = _make_results(dataset, metrics, protocol) if dataset else []
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="video-classification",
        license=license,
        tags=["vtn"],
        base_model=_find_base_model(model_id, base_model, config.name_or_path, config.backbone_config.name_or_path),
        datasets=[_clean(dataset)] if dataset else None,
        metrics=sorted({_find_metric_type(name) for name in metrics}) or None,
        model_name=title if results else None,
        eval_results=results or None,
    )
    description = (
        f"A [Video Transformer Network](https://huggingface.co/papers/2102.00719) on a "
        f"{config.backbone_config.model_type} backbone, which tells {config.num_labels} classes of videos apart: "
        f"{_list_labels(config)}."
    )
    if training:
        description += f"\n\n{training}"
    if metrics:
        where = escape(dataset or "the evaluation set")
        description += f"\n\n## Results\n\nOn {where}; {escape(protocol)}.\n\n{_make_table(metrics)}"
    use = _USE.format(model_id=json.dumps(model_id, ensure_ascii=not model_id.isprintable()))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {escape(title)}\n\n{description.rstrip()}\n\n{use}")


def add_evaluation(path: str | Path, dataset: str, metrics: dict[str, float], protocol: str):
    """
    Adds results to a model card, in its metadata and as a section; those of the same protocol are replaced.

    Args:
        path (`str` or `Path`): The card, `README.md` of a model.
        dataset (`str`): What it was evaluated on.
        metrics (`dict[str, float]`): Results.
        protocol (`str`): How they were measured: frames, crops, views, and the videos that were left out.
    """
    card = ModelCard.load(path)
    results = _make_results(dataset, metrics, protocol)
    names = {result.metric_name for result in results}
    card.data.model_name = card.data.model_name or _clean(Path(path).parent.name)
    card.data.eval_results = [old for old in card.data.eval_results or [] if old.metric_name not in names] + results
    heading = f"## Evaluation on {escape(dataset)}: {escape(protocol)}"
    sections = [section for section in card.text.split("\n## ") if not f"## {section}".startswith(f"{heading}\n")]
    card.text = "\n## ".join(sections).rstrip() + f"\n\n{heading}\n\n{_make_table(metrics)}"
    card.save(path)


def replace_generic_card(path: str | os.PathLike, card: ModelCard):
    """Puts `card` where transformers, pushing a model, wrote a card of its template; any other card stays."""
    current = ModelCard.load(path)
    if "This model card has been automatically generated." in current.text and current.data.pipeline_tag is None:
        card.data.tags += [tag for tag in current.data.tags or [] if tag not in card.data.tags]
        card.save(path)


def _make_results(dataset: str, metrics: dict[str, float], protocol: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type="video-classification",
            dataset_type=_clean(dataset),
            dataset_name=_clean(dataset),
            metric_type=_find_metric_type(name),
            metric_name=_clean(f"{name} ({protocol})"),
            metric_value=value,
        )
        for name, value in metrics.items()
    ]


def _find_metric_type(name: str) -> str:
    """What the Hub calls a metric."""
    return "accuracy" if name.startswith("top") else name


def _make_table(metrics: dict[str, float]) -> str:
    return "| metric | value |\n| --- | --- |\n" + "".join(
        f"| {escape(name)} | {value:.4f} |\n" for name, value in metrics.items()
    )


def _list_labels(config: VTNConfig, most: int = 20) -> str:
    labels = list(config.id2label.values())
    return ", ".join(map(escape, labels[:most])) + (f" and {len(labels) - most} more" if len(labels) > most else "")


def _find_base_model(model_id: str, *candidates: str | os.PathLike | None) -> str | None:
    """The first that is another repository; the Hub refuses metadata that name a directory."""
    for name in candidates:
        if name and name != model_id and not os.path.exists(name):
            try:
                validate_repo_id(str(name))
            except HFValidationError:
                continue
            return str(name)
    return None
