# Two commands are all a newcomer needs: `make quickstart` and `make test`. Each makes the virtual
# environment if it is missing. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m
WORKDIR ?= runs

.PHONY: quickstart test slow faults mutations lint bench package clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; v = sys.version_info[:2]; (3, 11) <= v <= (3, 13) or sys.exit('jaxprune needs Python 3.11, 3.12 or 3.13; this is %d.%d: set PYTHON=python3.12, for example' % v)"
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[experiments,dev]'
	touch $@

quickstart: $(VENV)/.installed
	$(RUN) experiments.data fetch mnist
	$(RUN) experiments.lottery --config=configs/lottery/quickstart.py --workdir=$(WORKDIR)

test: $(VENV)/.installed
	$(RUN) pytest -n 2

slow: $(VENV)/.installed
	$(RUN) pytest -m slow

faults: $(VENV)/.installed
	rm -rf results/faults results/faults.md
	FAULTS=all FAULTS_TABLE=results/faults.md $(RUN) pytest -m "" tests/faults

mutations: $(VENV)/.installed
	PYTHONPATH=tests $(RUN) mutations.run

lint: $(VENV)/.installed
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) pyright --pythonpath $(BIN)/python

bench: $(VENV)/.installed
	$(RUN) benchmarks.selection
	$(RUN) benchmarks.train_step
	$(RUN) benchmarks.footprint
	$(RUN) benchmarks.growth

package: $(VENV)/.installed
	VENV=$(VENV) PYTHON=$(PYTHON) .ci/package

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache
