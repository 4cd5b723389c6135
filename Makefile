# The two commands: `make quickstart` (set up, train, classify) and `make test` (set up, test). Neither needs anything
# but Python 3.11 or newer; both keep to their own .venv and honour PIP_CONSTRAINT.

PYTHON ?= python3
export PIP_CONSTRAINT ?= $(CURDIR)/constraints.txt
# Python compiles what it imports; compiling everything takes a third of the installation.
export PIP_NO_COMPILE ?= 1
VENV := .venv
BIN := $(VENV)/bin
TORCHVISION := .venv-torchvision
FLOOR := .venv-floor
LATEST := .venv-latest
TRANSFORMERS := .venv-transformers
WHEEL := .venv-wheel

.PHONY: quickstart test test-slow test-floor test-latest conformance fuzz quality types style docs wheel clean

quickstart: $(VENV)/.package
	$(BIN)/python examples/quickstart.py

# The tests keep to one thread each, so every core takes files of its own.
ALL_CORES := -n auto --maxprocesses 4 --dist loadfile

# Both worlds: without torchvision, and with it, in the tests that can tell. It is unpacked beside the environment, so
# that one environment serves both.
test: $(VENV)/.dev $(TORCHVISION)/.done
	$(BIN)/python -m pytest $(ALL_CORES)
	PYTHONPATH=$(TORCHVISION) $(BIN)/python -m pytest $(ALL_CORES) $(addprefix tests/test_,$(addsuffix .py,\
		augmentation auto_classes backbones claims hub image_processing_vtn pipeline recipes video_processing_vtn))

# No tests is what there is until a test carries the marker: pytest says 5.
test-slow: $(VENV)/.dev $(TRANSFORMERS)/.done conformance
	$(BIN)/python -m pytest -m slow || [ $$? = 5 ]

# The oldest versions that setup.py admits, and the newest of what Hugging Face makes, beside the tested torch.
test-floor: $(FLOOR)/.done
	$(FLOOR)/bin/python -m pytest $(ALL_CORES)

test-latest: $(LATEST)/.done
	$(LATEST)/bin/python -m pytest $(ALL_CORES)

# Thousands of damaged videos, some minutes; `make test` has a short run.
fuzz: $(VENV)/.dev
	$(BIN)/python tests/fuzz/fuzz_video_decoding.py --cases 5000

# transformers' own suites. Those of the processors need torchvision.
conformance: $(VENV)/.dev $(TORCHVISION)/.done
	PYTHONPATH=$(TORCHVISION) $(BIN)/python -m pytest -m "" tests/conformance --report docs/reports/conformance.md

quality: $(VENV)/.dev types
	$(BIN)/ruff check src tests examples docs/*.py setup.py
	$(BIN)/ruff format --check src tests examples docs/*.py setup.py

types: $(VENV)/.dev
	$(BIN)/mypy

style: $(VENV)/.dev
	$(BIN)/ruff check --fix src tests examples docs/*.py setup.py
	$(BIN)/ruff format src tests examples docs/*.py setup.py

# The pages, in site/. Without a network, once the environment is there.
docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# What is uploaded, and whether it works where nothing else is installed.
wheel: $(VENV)/.release
	rm -rf dist $(WHEEL)
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install dist/*.whl
	$(WHEEL)/bin/python tests/wheel_smoke.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.package: $(BIN)/python setup.py constraints.txt
	$(BIN)/python -m pip install -e .
	touch $@

$(VENV)/.release: $(VENV)/.dev
	$(BIN)/python -m pip install -e '.[release]'
	touch $@

$(VENV)/.dev: $(BIN)/python setup.py constraints.txt
	$(BIN)/python -m pip install -e '.[dev]'
	touch $@

# Without dependencies, which are in the environment already. timm cannot do without torchvision.
$(TORCHVISION)/.done: $(BIN)/python constraints.txt
	$(BIN)/python -m pip install --no-deps --upgrade --target $(TORCHVISION) torchvision timm
	touch $@

# The newest transformers, with what it needs, which torch is not: a checkpoint is to run on it, without this package.
$(TRANSFORMERS)/.done: $(BIN)/python setup.py
	PIP_CONSTRAINT= $(BIN)/python -m pip install --upgrade --target $(TRANSFORMERS) 'transformers<6'
	touch $@

$(FLOOR)/.done: setup.py constraints-floor.txt
	$(PYTHON) -m venv $(FLOOR)
	PIP_CONSTRAINT=$(CURDIR)/constraints-floor.txt $(FLOOR)/bin/python -m pip install -e '.[test,train]'
	touch $@

$(LATEST)/.done: setup.py constraints.txt
	$(PYTHON) -m venv $(LATEST)
	grep -vE '^(accelerate|datasets|evaluate|huggingface_hub|peft|safetensors|tokenizers|transformers)=' constraints.txt \
		> $(LATEST)/constraints.txt
	PIP_CONSTRAINT=$(CURDIR)/$(LATEST)/constraints.txt $(LATEST)/bin/python -m pip install -U -e '.[test,train,peft]'
	touch $@

clean:
	rm -rf $(VENV) $(TORCHVISION) $(TRANSFORMERS) $(FLOOR) $(LATEST) $(WHEEL) .conformance build dist site src/*.egg-info
