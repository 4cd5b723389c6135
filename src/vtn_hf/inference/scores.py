"""From logits to scores between 0 and 1."""

import torch

from ..modeling_vtn import VTNForVideoClassification


def to_scores(model: VTNForVideoClassification, logits: torch.Tensor, calibrated: bool = False) -> torch.Tensor:
    """
    Logits to scores as `pipeline()` does: one class per video, or any number of them; `calibrated` ones by the
    temperature of the model, which `vtn evaluate --calibrate` fits, so that they say how often they are right.
    """
    logits = logits.float()
    if calibrated:
        logits = logits / model.config.calibration_temperature
    if model.config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    return logits.softmax(dim=-1)
