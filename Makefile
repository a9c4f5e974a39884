# Everything sets itself up: on a fresh Debian machine with python3, make, git and root, any target can be the first.

# The Python that .venv is made with, 3.10 or newer; found by scripts/create-venv when empty.
PYTHON =
VENV = .venv
# Without setuptools' remark that an editable installation is one.
PIP = PYTHONWARNINGS=ignore $(VENV)/bin/python -m pip --disable-pip-version-check
CODEX = .cache/codex
AXE = .cache/axe
TESTED_WITH = nginx systemd logrotate prometheus postgresql chromium chromium-driver
# Many tests wait most of their time, so there is room for more of them than the machine has CPUs.
IN_PARALLEL = -n $$(($$(nproc) + 1)) --dist worksteal
# Options for pytest: make test ARGS='-k nginx'
ARGS =

.PHONY: help install demo test coverage prove check format bench soak docs screenshots
.DELETE_ON_ERROR:

help:
	@echo 'make demo      Try it: no credential, no network, ends with Ctrl-C'
	@echo 'make install   Build .venv with all that is needed to run and develop'
	@echo "make test      Run all tests, also with the real Codex and nginx (ARGS='-k name' chooses some)"
	@echo 'make coverage  Run the tests under coverage, and fail below what was reached'
	@echo 'make prove     Take each defence against faults out, in a copy, and see its test fail'
	@echo 'make check     Check format, lint and types'
	@echo 'make format    Format the code and mend what lint can'
	@echo 'make bench     Measure the relay'
	@echo 'make soak      Let mixed clients, faults and reloads at it for ten minutes, and look for leaks'
	@echo 'make docs      Build the site of docs/ in build/site'
	@echo 'make screenshots'
	@echo '               Picture the dashboard anew, into docs/images/'

install: $(VENV)/with-dev

# The extras of development, where they are, hold those of the demo.
demo: $(firstword $(wildcard $(VENV)/with-dev) $(VENV)/with-demo)
	@$(VENV)/bin/flask ocm demo

test: $(VENV)/with-dev $(CODEX)/installed $(AXE)/installed
	@scripts/debian-packages $(TESTED_WITH)
	$(VENV)/bin/pytest $(IN_PARALLEL) --durations 20 $(ARGS)

# Tracing takes as long again as the tests: a run of its own, so that `make test` is quick and its timing true.
coverage: $(VENV)/with-dev $(CODEX)/installed $(AXE)/installed
	@scripts/debian-packages $(TESTED_WITH)
	@rm -rf build/coverage && mkdir -p build/coverage
	$(VENV)/bin/coverage run -m pytest $(IN_PARALLEL) $(ARGS)
	@$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage report

# Minutes: some hundred tests, each in a copy of the tree of its own.
prove: $(VENV)/with-dev $(CODEX)/installed
	@scripts/debian-packages nginx
	$(VENV)/bin/python -m tests.faults.prove $(ARGS)

check: $(VENV)/with-dev
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy

format: $(VENV)/with-dev
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

bench: $(VENV)/with-dev
	@scripts/debian-packages nginx
	$(VENV)/bin/python -m benchmarks $(ARGS)

soak: $(VENV)/with-dev
	$(VENV)/bin/python -m tests.soak $(ARGS)

docs: $(firstword $(wildcard $(VENV)/with-dev) $(VENV)/with-docs)
	$(VENV)/bin/properdocs build --quiet
	@echo 'Open build/site/index.html'

screenshots: $(VENV)/with-dev
	@scripts/screenshots

# One stamp for each extra of setup.cfg.
$(VENV)/with-%: setup.cfg pyproject.toml
	@scripts/create-venv $(VENV) $(PYTHON)
	@echo 'Installing the Python packages ($*) into $(VENV) ...'
	@$(PIP) install --quiet --editable '.[$*]'
	@touch $@

# package.json is where the version of Codex is pinned. No lock file: it would name the registry of whoever wrote it.
$(CODEX)/installed: tests/clients/package.json
	@scripts/debian-packages nodejs npm
	@echo 'Installing the Codex client into $(CODEX) ...'
	@mkdir -p $(CODEX) && cp $< $(CODEX)/
	@npm install --prefix $(CODEX) --ignore-scripts --no-package-lock --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

# What looks for barriers in the dashboard's pages.
$(AXE)/installed: tests/views/dashboard/package.json
	@scripts/debian-packages nodejs npm
	@echo 'Installing axe-core into $(AXE) ...'
	@mkdir -p $(AXE) && cp $< $(AXE)/
	@npm install --prefix $(AXE) --ignore-scripts --no-package-lock --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@
