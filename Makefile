# Two commands do all their own set-up on a bare Debian 12: `make run` and `make test`.
# Everything Python goes into .venv; apt packages are installed only as root, else named.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test fmt clean

run: $(VENV)/.installed
	@PYTHONPATH=$(CURDIR) $(BIN)/python tools/quickstart.py config/quickstart.Dwaarfile $(BIN)
	@PYTHONPATH=$(CURDIR) exec $(BIN)/twistd -n --pidfile= dwaarx --config config/quickstart.Dwaarfile

test: $(VENV)/.test-tools
	@tools/apt-packages test
	@rm -f .tox/*/tmp/junit.xml
	@$(BIN)/tox run; status=$$?; $(BIN)/python tools/test_counts.py .tox; exit $$status

fmt: $(VENV)/.test-tools
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

$(VENV)/bin/python:
	@tools/apt-packages run
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --quiet --disable-pip-version-check --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python setup.cfg
	$(BIN)/pip install --quiet --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.test-tools: $(VENV)/bin/python setup.cfg
	$(BIN)/pip install --quiet --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) .tox build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage*
