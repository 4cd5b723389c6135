"""
Video Transformer Network (VTN) for Hugging Face transformers.

Importing the package registers it with the Auto classes, so that `AutoModel`, `pipeline` and their kin load a VTN.
"""

from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForVideoClassification,
)

# Where torchvision is missing, what transformers itself exports under this name only raises; `pipeline` uses this one.
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from .configuration_vtn import VTNConfig
from .configuration_vtn import __version__ as __version__
from .hub import complete_classes
from .image_processing_vtn import VTNImageProcessor
from .modeling_vtn import VTNForVideoClassification, VTNModel
from .optimization import optimize
from .video_decoding_vtn import VideoDecodeError
from .video_processing_vtn import VTNVideoProcessor


complete_classes()
AutoConfig.register("vtn", VTNConfig)
AutoModel.register(VTNConfig, VTNModel)
AutoModelForVideoClassification.register(VTNConfig, VTNForVideoClassification)
# One class for both of transformers' backends: its pixel maths needs neither torchvision nor PIL.
AutoImageProcessor.register(
    VTNConfig, image_processor_classes={"torchvision": VTNImageProcessor, "pil": VTNImageProcessor}
)
AutoVideoProcessor.register(VTNConfig, VTNVideoProcessor)

__all__ = [
    "VTNConfig",
    "VTNForVideoClassification",
    "VTNImageProcessor",
    "VTNModel",
    "VTNVideoProcessor",
    "VideoDecodeError",
    "optimize",
]
