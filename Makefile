# `make demo` and `make test` install what they need into $(VENV) first; `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
# passed to pip, such as an index with CPU builds of torch: make demo PIP_ARGS="--extra-index-url ..."
PIP_ARGS ?=
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

.PHONY: help install demo test lint format ui clean

help:
	@echo "make demo    install, and run the whole chain on generated photos (5 minutes on 2 cores)"
	@echo "make test    install, and run the tests"
	@echo "make lint    check code and notebooks with ruff;  make format  mends what it can"
	@echo "make ui      the MLflow UI on http://127.0.0.1:5000"
	@echo "make clean   remove the environment and caches; outputs/, data/ and mlflow.db stay"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "expected Python 3.11 or newer, got $$($(PYTHON) --version); give another: make PYTHON=python3.12"; exit 2; }
	@command -v $${CXX:-c++} >/dev/null || \
	  { echo "no C++ compiler, which pydensecrf2 is built with; install one (apt-get install g++)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(PIP_ARGS) -e '.[dev]'
	touch $@

demo: install
	$(BIN)/wsss run experiments/shapes.yaml

test: install
	$(BIN)/python -m pytest -q

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# the UI is for this machine alone; to open it to others, put a proxy with a password before it
ui: install
	$(BIN)/mlflow ui --host 127.0.0.1 --port 5000 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///$(CURDIR)/mlflow.db}"

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
	find wsss tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
