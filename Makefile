# `make` lists the targets. Debian packages come through `deps`, Python packages into .venv.

VENV := .venv
PY := $(VENV)/bin/python
# Which one makes .venv.
PYTHON := python3
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# What Debian brings: the guest's hardware and shell, gdb, a compiler for the
# guest's workload, keys for other suites, and bpftool, which tests compare our reading of BTF with.
DEBS := qemu-system-x86 busybox-static gdb gcc libc6-dev python3-venv debian-archive-keyring bpftool

.DEFAULT_GOAL := help
.PHONY: help deps debs run-emu test lint check bench clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: debs $(VENV)/.stamp  ## install what is missing: Debian packages (asks sudo), Python packages into .venv (1 min)

run-emu: deps  ## boot a stock Debian kernel and trace its vfs_* calls from outside (fetches 30 MB the first time)
	$(PY) -m fprobe_gdb trace -i 'vfs_*' -x 'vfs_[fow]*' -x 'vfs_read*' -- \
	  'cp /etc/motd /tmp/a && mv /tmp/a /tmp/b && rm /tmp/b'

# Compiled first: where Python is told to keep nothing of that (PYTHONDONTWRITEBYTECODE), each of the hundred commands
# that tests run would compile all modules anew.
# Files come in the order of their names: those of unit are the last, hundreds of short ones, so that neither worker waits
# for the other in the end.
test: deps  ## all tests, on real kernels (under 15 min)
	$(PY) -m compileall -q emu images fprobe_gdb
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: deps  ## ruff, ruff format, mypy --strict (10 s)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

check: lint  ## what to run before a commit: lint, unit tests (1 min)
	$(PY) -m pytest -q tests/unit

bench: deps  ## cost of a hit by way, as ratios within one run; boots, symbols, types (9 min)
	$(PY) -m tests.bench
	$(PY) -m tests.bench.recording
	$(PY) -m tests.bench.planted

clean:  ## remove .venv and build products; keeps the download cache
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Only what is missing, so that a machine that has it all needs neither root nor the network. Elsewhere than on Debian
# nothing is installed; `fprobe-gdb doctor` says what is needed.
debs:
	@command -v dpkg-query >/dev/null || exit 0; \
	missing=$$(for p in $(DEBS); do \
	  test "$$(dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null)" = installed || echo $$p; done); \
	test -z "$$missing" || { echo "installing" $$missing; $(SUDO) apt-get update -q && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $$missing; }

$(VENV)/.stamp: pyproject.toml | debs
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -e '.[dev]'
	touch $@
