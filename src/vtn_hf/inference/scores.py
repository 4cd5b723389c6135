"""From logits to scores between 0 and 1."""

import torch

from ..modeling_vtn import VTNForVideoClassification


def to_scores(model: VTNForVideoClassification, logits: torch.Tensor, calibrated: bool = False) -> torch.Tensor:
    """
    Turns logits into scores as `pipeline()` does: by softmax, or by sigmoid for several labels per video. `calibrated`
    ones go by the temperature of the model, which `vtn evaluate --calibrate` fits, so that a score says how often it
    is right.
    """
    logits = logits.float()
    if calibrated:
        logits = logits / model.config.calibration_temperature
    if model.config.problem_type == "multi_label_classification":
        return logits.sigmoid()
    return logits.softmax(dim=-1)
