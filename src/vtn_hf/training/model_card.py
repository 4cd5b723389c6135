"""The model card of a VTN: what it is, how it was made, how to use it."""

from huggingface_hub import EvalResult, ModelCard, ModelCardData


def make_model_card(
    title: str,
    description: str,
    *,
    model_id: str = "MODEL_DIR_OR_REPO",
    base_model: str | None = None,
    dataset: str | None = None,
    metrics: dict[str, float] | None = None,
    protocol: str | None = None,
) -> ModelCard:
    """
    Writes a model card.

    Args:
        title (`str`): Heading.
        description (`str`): Markdown, put below the heading.
        model_id (`str`, *optional*): What a reader passes to `pipeline`.
        base_model (`str`, *optional*): The model, or its backbone, that training started from.
        dataset (`str`, *optional*): What it was trained and evaluated on.
        metrics (`dict[str, float]`, *optional*): Results on `dataset`, measured by us.
        protocol (`str`, *optional*): How `metrics` were measured: frames, crops, views.

    Returns:
        `ModelCard`: With metadata as the Hub reads it: task, library, license, base model and results.
    """
    metrics = metrics or {}
    results = [
        EvalResult(
            task_type="video-classification",
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type="accuracy",
            metric_name=f"{name} ({protocol})" if protocol else name,
            metric_value=value,
        )
        for name, value in metrics.items()
    ]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="video-classification",
        license="apache-2.0",
        tags=["vtn"],
        base_model=base_model,
        model_name=title if results else None,
        eval_results=results or None,
    )
    table = "".join(f"| {name} | {value:.4f} |\n" for name, value in metrics.items())
    if table:
        table = f"\n## Results\n\nOn {dataset}; {protocol}.\n\n| metric | value |\n| --- | --- |\n{table}"
    return ModelCard(
        f"""---
{data.to_yaml()}
---

# {title}

{description}
{table}
## Use

```python
import vtn_hf
from transformers import pipeline

classify = pipeline("video-classification", model="{model_id}")
classify("video.mp4")
```
"""
    )
