"""
Video Transformer Network (VTN) for Hugging Face transformers.

Importing the package registers it with the Auto classes, so that `AutoModel`, `pipeline` and their kin load a VTN.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForVideoClassification,
    AutoVideoProcessor,
)
from transformers.utils import is_torchvision_available

from .configuration_vtn import VTNConfig
from .image_processing_vtn import VTNImageProcessor
from .modeling_vtn import VTNForVideoClassification, VTNModel
from .video_decoding_vtn import VideoDecodeError
from .video_processing_vtn import VTNVideoProcessor


__version__ = "0.1.0"

AutoConfig.register("vtn", VTNConfig)
AutoModel.register(VTNConfig, VTNModel)
AutoModelForVideoClassification.register(VTNConfig, VTNForVideoClassification)
# One class for both of transformers' backends: its pixel maths needs neither torchvision nor PIL.
AutoImageProcessor.register(
    VTNConfig, image_processor_classes={"torchvision": VTNImageProcessor, "pil": VTNImageProcessor}
)
if is_torchvision_available():  # without it, AutoVideoProcessor is a stand-in that only raises
    AutoVideoProcessor.register(VTNConfig, VTNVideoProcessor)

__all__ = [
    "VTNConfig",
    "VTNForVideoClassification",
    "VTNImageProcessor",
    "VTNModel",
    "VTNVideoProcessor",
    "VideoDecodeError",
]
