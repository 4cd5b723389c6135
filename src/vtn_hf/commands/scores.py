"""The best classes of a video, as `pipeline()` gives them and as columns of a table."""

import torch


def rank(scores: torch.Tensor, labels: dict[int, str], top_k: int) -> list[dict]:
    """The best classes, as `pipeline()` gives them."""
    best = scores.topk(min(top_k, len(scores)))
    return [
        {"score": score, "label": labels[index]}
        for score, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def list_score_columns(num_classes: int) -> list[str]:
    """How the best classes are called in a CSV file: label, score, label_2, score_2, …"""
    return [
        f"{name}_{rank}" if rank > 1 else name for rank in range(1, num_classes + 1) for name in ("label", "score")
    ]


def flatten_scores(scores: list[dict]) -> dict:
    """The best classes by the names of their columns."""
    values = [best[name] for best in scores for name in ("label", "score")]
    return dict(zip(list_score_columns(len(scores)), values, strict=True))
