# `make demo` and `make test` are the two commands; what they need is installed into $(VENV) on first use.
PYTHON ?= python3
VENV ?= .venv
# Passed on to pip: without a GPU, an index of CPU builds of torch saves several GB (see `make help`).
PIP_ARGS ?=
# Processes that run tests; each takes about 1 GB.
JOBS ?= 2
# Which tests, as pytest's -m takes it; empty for those without a mark.
MARK ?=
# Of `make fuzz`, and the seed of `make mutants` too.
SECONDS ?= 60
SEED ?= 0
# How many changes `make mutants` makes; empty for one at every place.
MUTANTS ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# mlflow reports usage by default; where it cannot reach anyone, each start waits for a time-out (measured: 40 to 90 s).
export MLFLOW_DISABLE_TELEMETRY := true
# Its servers start eight processes for jobs that nothing here has.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION := false

.DEFAULT_GOAL := help
.PHONY: help install demo test slow cluster faults browser postgres long identity fuzz mutants bench lint audit format ui clean

help:  ## list what there is to make
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "Settings: PYTHON=$(PYTHON) (3.11 or newer), VENV=$(VENV) (where packages go), PIP_ARGS (for pip), JOBS=$(JOBS) (of tests)."
	@echo "On Linux pip takes torch with CUDA, several GB. For the CPU build, the one pytorch.org names:"
	@echo "    make demo PIP_ARGS='--extra-index-url URL-OF-THE-CPU-INDEX'"

install: $(INSTALLED)  ## put wsss, its dependencies and the developers' tools into $(VENV)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "wsss needs Python 3.11 or newer, and '$(PYTHON)' is not. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@{ command -v c++ || command -v g++ || command -v clang++; } >/dev/null || { \
	    echo "wsss needs a C++ compiler (for pydensecrf2): install g++ or clang++" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(PIP_ARGS) -e '.[dev]'
	@touch $@

demo: install  ## run the whole chain on generated photos
	$(BIN)/wsss run experiments/shapes.yaml
	@echo "      jupyter lab notebooks    # each stage, to read and to run again"

test: install  ## run the tests, in $(JOBS) processes
	$(BIN)/python -m pytest -q $(if $(MARK),-m '$(MARK)') -n $(JOBS) --dist loadfile --no-loadscope-reorder

slow: MARK = slow
slow: browser postgres test  ## run the slow tests: whole chains, kills, real servers, a real browser

cluster: install  ## install Ray and an object store too, and run what is done on clusters on two nodes, emulated here
	$(BIN)/python -m pip install $(PIP_ARGS) -q -e '.[dev,cluster]' 's3fs>=2024.6' 'moto[server]>=5'
	$(BIN)/python -m pytest -q -m cluster

faults: install  ## kill, cut and starve whole runs and compare what they leave: some 25 minutes on 2 idle cores
	$(BIN)/python -m tests.faults --kills 100 --seed 0 --minutes 30

browser:
	@command -v chromium >/dev/null || { echo "no chromium here; trying: apt-get install chromium"; \
	    apt-get install -y --no-install-recommends chromium >/dev/null 2>&1; } || \
	    echo "chromium could not be installed: tests in a browser are skipped"

postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || { echo "no PostgreSQL here; trying: apt-get install postgresql"; \
	    apt-get install -y --no-install-recommends postgresql >/dev/null 2>&1; } || \
	    echo "PostgreSQL could not be installed: its test is skipped"

long: install  ## run the paper's ResNet-38 experiment on a few photos, and 10,000 photos for memory: some minutes, 4 GB
	$(BIN)/python -m pytest -q -m long

identity: install  ## change photos, tags, weights, code and results at random: nothing stale, nothing needless
	$(BIN)/python -m tests.identity --changes 200 --seed $(SEED)

fuzz: install  ## have every reader read spoilt files for SECONDS (60), of SEED (0)
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

mutants: install  ## change the method's code in MUTANTS places (all), drawn by SEED (0), and see that tests notice
	$(BIN)/python -m tests.mutants --seed $(SEED) $(if $(MUTANTS),--mutants $(MUTANTS))

bench: install  ## time the hot steps beside their plain definitions: ten minutes on 2 idle cores
	$(BIN)/python -m benchmarks

lint: install  ## check style, notebooks included, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

audit: install  ## look the installed packages up in the database of known security flaws
	$(BIN)/python -m tests.audit

format: install  ## put style right, notebooks included, and strip notebooks of outputs
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/nbstripout --keep-id notebooks/*.ipynb

ui: install  ## show the recorded runs at http://127.0.0.1:5000, to this machine only
	@$(BIN)/python -c 'from wsss.lab.record import mlflow_pages; print(mlflow_pages.addresses())'
	$(BIN)/mlflow ui --host 127.0.0.1 --port 5000 --workers 1 --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}"

clean:  ## remove $(VENV) and caches; data, outputs and recorded runs stay
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find wsss tests notebooks benchmarks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} + 2>/dev/null || true
