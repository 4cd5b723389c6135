"""Packaging. To release: set the version in configuration_vtn.py, run `make quality test`, tag, upload."""

import re
from pathlib import Path

from setuptools import find_packages, setup


root = Path(__file__).parent
code = (root / "src/vtn_hf/configuration_vtn.py").read_text(encoding="utf-8")
version = re.search(r'__version__ = "(.+)"', code).group(1)

extras = {
    # `AutoVideoProcessor` exists only where torchvision does, in the version made for the installed torch.
    "torchvision": ["torchvision"],
    "timm": ["timm"],
    "peft": ["peft"],
    "onnx": ["onnx", "onnxruntime", "onnxscript"],
    "quantization": ["torchao"],
    "examples": ["matplotlib"],
    "tensorboard": ["tensorboard"],
    # The second is for transformers' own tests.
    "test": ["pytest", "parameterized"],
    "quality": ["ruff"],
}
extras["dev"] = [
    package for name in ("peft", "onnx", "quantization", "examples", "test", "quality") for package in extras[name]
]

setup(
    name="vtn_hf",
    version=version,
    description="Video Transformer Network (VTN) for Hugging Face transformers",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"vtn_hf.data": ["*.txt"], "vtn_hf.training": ["*.html"]},
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "transformers>=5.23",
        "datasets>=5.2",
        "accelerate>=1.15",
        "evaluate>=0.4.6",
        "av>=18,<19",
        "jinja2",
        "safetensors",
        "huggingface-hub",
        "filelock",
        # transformers' image and video processors exist only where PIL does.
        "pillow",
        "numpy",
        "pyyaml",
        "tqdm",
    ],
    extras_require=extras,
)
