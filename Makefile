# Every target installs what it needs: on a fresh Debian machine with python3, make, git and root, run any of them first.

# The Python for .venv, 3.10 or newer; if empty, scripts/create-venv looks for one.
PYTHON =
VENV = .venv
# What `make matrix` tests with: names or paths.
PYTHONS = python3.10 python3.11 python3.12 python3.13 python3.14
# Suppresses setuptools' warning about editable installations.
PIP = PYTHONWARNINGS=ignore $(VENV)/bin/python -m pip --disable-pip-version-check
CODEX = .cache/codex
AXE = .cache/axe
TESTED_WITH = nginx caddy systemd logrotate prometheus postgresql chromium chromium-driver
INSTALLED_WITH = mmdebstrap podman crun uidmap slirp4netns netavark aardvark-dns systemd-container
# Many tests wait most of their time, so there is room for more of them than the machine has CPUs.
IN_PARALLEL = -n $$(($$(nproc) + 2)) --dist worksteal
# Tests start Python hundreds of times. Without the bytecode, each of these processes would compile the package again.
unexport PYTHONDONTWRITEBYTECODE
# Options for pytest: make test ARGS='-k nginx'
ARGS =

.PHONY: help install demo test test-installation coverage prove check format bench soak docs matrix release lock \
	screenshots
.DELETE_ON_ERROR:

help:
	@echo 'make demo      Try it without a credential or a network, until Ctrl-C'
	@echo 'make install   Create .venv with everything needed to run and develop'
	@echo "make test      Run all tests, including those with the real Codex and nginx (ARGS='-k name' selects some)"
	@echo 'make test-installation'
	@echo '               Install, run and upgrade it in an empty Debian, in containers and under systemd (as root)'
	@echo 'make coverage  Run the tests under coverage, subprocesses included'
	@echo 'make prove     Remove each defence against faults, in a copy, and check that its test fails'
	@echo 'make check     Check format, lint, types and the direction of imports'
	@echo 'make format    Format the code and fix lint errors where possible'
	@echo 'make bench     Measure the relay'
	@echo 'make soak      Run mixed clients, faults and reloads for ten minutes, and check for leaks'
	@echo 'make docs      Build the documentation in build/site'
	@echo "make matrix    Run the tests with each Python from 3.10 to 3.14 that is installed (PYTHONS='python3.13 ...')"
	@echo 'make release   Build the wheel, the source distribution and their hashes in dist/, and try them'
	@echo "make lock      Pin all dependencies with their hashes (ARGS=--upgrade: the newest versions)"
	@echo 'make screenshots'
	@echo '               Recreate the pictures of the dashboard in docs/images/'

install: $(VENV)/with-dev

# The development extra, if installed, includes the demo's.
demo: $(firstword $(wildcard $(VENV)/with-dev) $(VENV)/with-demo)
	@$(VENV)/bin/ocm demo

test: $(VENV)/with-dev $(CODEX)/installed $(AXE)/installed
	@scripts/debian-packages $(TESTED_WITH)
	$(VENV)/bin/pytest $(IN_PARALLEL) --durations 20 $(ARGS)

# From nothing but Debian and Python: the wheel in a chroot, the image in containers of a plain user, the unit under
# systemd. As root; nothing stays on the machine except the packages named above and .cache.
test-installation: $(VENV)/with-dev $(VENV)/with-release
	@scripts/debian-packages $(INSTALLED_WITH)
	$(VENV)/bin/pytest tests/installation --durations 20 $(ARGS)

# Tracing doubles the time of the tests, so it has a separate target: `make test` stays fast and its timings accurate.
coverage: $(VENV)/with-dev $(CODEX)/installed $(AXE)/installed
	@scripts/debian-packages $(TESTED_WITH)
	@rm -rf build/coverage && mkdir -p build/coverage
	$(VENV)/bin/coverage run -m pytest $(IN_PARALLEL) $(ARGS)
	@$(VENV)/bin/coverage combine --quiet
	$(VENV)/bin/coverage report $(if $(ARGS),--fail-under 0)

# Takes minutes: about a hundred tests, each in its own copy of the tree.
prove: $(VENV)/with-dev $(CODEX)/installed
	@scripts/debian-packages nginx
	$(VENV)/bin/python -m tests.faults.prove $(ARGS)

check: $(VENV)/with-dev
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/ruff check
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

format: $(VENV)/with-dev
	$(VENV)/bin/ruff format
	$(VENV)/bin/ruff check --fix

bench: $(VENV)/with-dev
	@scripts/debian-packages nginx
	$(VENV)/bin/python -m benchmarks $(ARGS)

soak: $(VENV)/with-dev
	$(VENV)/bin/python -m tests.soak $(ARGS)

docs: $(VENV)/with-dev
	$(VENV)/bin/properdocs build --quiet
	@echo 'Open build/site/index.html'

# PYTHONS names others, or their paths. One that is not installed is reported at the end, not an error.
matrix:
	@scripts/matrix '$(PYTHONS)' $(ARGS)

# Uploading is left to a person: `twine upload dist/*`.
release: $(VENV)/with-release $(VENV)/with-dev
	@scripts/release $(VENV) $(ARGS)
	@scripts/debian-packages $(INSTALLED_WITH)
	@echo 'Running it in an empty Debian ...'
	@RELEASED=dist $(VENV)/bin/pytest -q --no-header tests/installation/test_debian.py

# ARGS=--upgrade takes the newest versions that setup.cfg allows.
lock: $(VENV)/with-release
	@scripts/lock $(VENV) $(ARGS)

screenshots: $(VENV)/with-dev
	@scripts/screenshots

# The lock files pin every package with its hashes; `make lock` renews them.
$(VENV)/with-demo: requirements.lock
$(VENV)/with-dev: requirements-dev.lock
$(VENV)/with-release: requirements-release.lock

# One stamp file for each lock file.
$(VENV)/with-%: setup.cfg pyproject.toml
	@scripts/create-venv $(VENV) $(PYTHON)
	@echo 'Installing the Python packages ($*) into $(VENV) ...'
	@$(PIP) install --quiet --require-hashes --requirement $(filter %.lock,$^)
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# package.json pins the versions of Codex, opencode and OpenAI's library for Node.js. There is no lock file, as it would contain its author's registry.
$(CODEX)/installed: tests/clients/package.json
	@scripts/debian-packages nodejs npm
	@echo 'Installing the clients for Node.js into $(CODEX) ...'
	@mkdir -p $(CODEX) && cp $< $(CODEX)/
	@npm install --prefix $(CODEX) --ignore-scripts --no-package-lock --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@

# The accessibility checker for the dashboard's pages.
$(AXE)/installed: tests/views/dashboard/package.json
	@scripts/debian-packages nodejs npm
	@echo 'Installing axe-core into $(AXE) ...'
	@mkdir -p $(AXE) && cp $< $(AXE)/
	@npm install --prefix $(AXE) --ignore-scripts --no-package-lock --no-audit --no-fund --no-update-notifier --loglevel=error
	@touch $@
