# The two commands: `make quickstart` (set up, train, classify) and `make test` (set up, test). Neither needs anything
# but Python 3.10 or newer; both keep to their own .venv and honour PIP_CONSTRAINT.

PYTHON ?= python3
export PIP_CONSTRAINT ?= $(CURDIR)/constraints.txt
# Python compiles what it imports; compiling everything takes a third of the installation.
export PIP_NO_COMPILE ?= 1
VENV := .venv
BIN := $(VENV)/bin
TORCHVISION := .venv-torchvision

.PHONY: quickstart test test-slow conformance fuzz quality style clean

quickstart: $(VENV)/.examples
	$(BIN)/python examples/quickstart.py

# Both worlds: without torchvision, and with it, in the tests that can tell. It is unpacked beside the environment, so
# that one environment serves both.
test: $(VENV)/.dev $(TORCHVISION)/.done
	$(BIN)/python -m pytest
	PYTHONPATH=$(TORCHVISION) $(BIN)/python -m pytest $(addprefix tests/test_,$(addsuffix .py,\
		augmentation auto_classes backbones hub image_processing_vtn recipes video_processing_vtn))

# No tests is what there is until a test carries the marker: pytest says 5.
test-slow: $(VENV)/.dev conformance
	$(BIN)/python -m pytest -m slow || [ $$? = 5 ]

# Thousands of damaged videos, some minutes; `make test` has a short run.
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz/fuzz_video_decoding.py --cases 5000

# transformers' own suites. Those of the processors need torchvision.
conformance: $(VENV)/.dev $(TORCHVISION)/.done
	PYTHONPATH=$(TORCHVISION) $(BIN)/python -m pytest -m "" tests/conformance --report docs/conformance.md

quality: $(VENV)/.dev
	$(BIN)/ruff check src tests examples setup.py
	$(BIN)/ruff format --check src tests examples setup.py

style: $(VENV)/.dev
	$(BIN)/ruff check --fix src tests examples setup.py
	$(BIN)/ruff format src tests examples setup.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.examples: $(BIN)/python setup.py constraints.txt
	$(BIN)/python -m pip install -e '.[examples]'
	touch $@

$(VENV)/.dev: $(BIN)/python setup.py constraints.txt
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

# Without dependencies, which are in the environment already. timm cannot do without torchvision.
$(TORCHVISION)/.done: $(BIN)/python constraints.txt
	$(BIN)/python -m pip install --no-deps --upgrade --target $(TORCHVISION) torchvision timm
	touch $@

clean:
	rm -rf $(VENV) $(TORCHVISION) .conformance build dist src/*.egg-info
