"""
Packaging. To release: set the version in configuration_vtn.py, name it in CHANGELOG.md, run `make quality test wheel`,
tag, upload what is in dist/. Lower bounds are those of constraints-floor.txt, which `make test-floor` tests.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup


root = Path(__file__).parent
code = (root / "src/vtn_hf/configuration_vtn.py").read_text(encoding="utf-8")
version = re.search(r'__version__ = "(.+)"', code).group(1)

extras = {
    # Curves in TensorBoard while a training runs; pictures of attention and of comparisons.
    "train": ["tensorboard", "matplotlib"],
    # `AutoVideoProcessor` exists only where torchvision does, in the version made for the installed torch.
    "torchvision": ["torchvision"],
    "app": ["gradio>=6.31", "matplotlib"],
    "onnx": ["onnx", "onnxruntime", "onnxscript"],
    "peft": ["peft"],
    "timm": ["timm"],
    "quantization": ["torchao"],
    "openvino": ["openvino"],
    "ray": ["ray[data]"],
    "docs": ["mkdocs-material", "mkdocstrings[python]"],
    # The last is for transformers' own tests.
    "test": ["pytest", "pytest-xdist", "parameterized"],
    # Runs the notebooks.
    "notebook": ["nbclient", "ipykernel"],
    "quality": ["ruff", "mypy", "types-PyYAML"],
    "release": ["build", "twine"],
}
extras["dev"] = [
    package
    for name in ("train", "onnx", "openvino", "peft", "quantization", "docs", "notebook", "test", "quality")
    for package in extras[name]
]

setup(
    name="vtn_hf",
    version=version,
    description="Video Transformer Network (VTN) for Hugging Face transformers",
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The vtn_hf authors",
    keywords="video classification transformer VTN transformers action recognition",
    project_urls={
        "Paper": "https://arxiv.org/abs/2102.00719",
        "Original implementation": "https://github.com/bomri/SlowFast",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    package_dir={"": "src"},
    packages=find_packages("src"),
    py_modules=["vtn_cli"],
    entry_points={"console_scripts": ["vtn = vtn_cli:main"]},
    package_data={
        "vtn_hf": ["py.typed"],
        "vtn_hf.configs": ["models/*.json", "recipes/*.yaml"],
        "vtn_hf.data": ["*.txt"],
        "vtn_hf.training": ["*.html"],
    },
    # transformers 5.23 needs it.
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.11",
        "transformers>=5.23,<6",
        "datasets>=5.2",
        "accelerate>=1.15",
        "evaluate>=0.4.6",
        "av>=18,<19",
        "jinja2",
        "safetensors",
        "huggingface-hub>=1.31",
        "filelock",
        # Processes with limits of time.
        "pebble",
        # transformers' image and video processors exist only where PIL does.
        "pillow>=11",
        "numpy>=2.0",
        "pyyaml",
        # The arithmetic of the metrics.
        "scikit-learn",
        "tqdm",
    ],
    extras_require=extras,
)
