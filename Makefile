# `make` lists the targets. Debian packages come through `deps`, Python packages into .venv.

VENV := .venv
PY := $(VENV)/bin/python
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
DEBS := qemu-system-x86 busybox-static gdb gcc libc6-dev python3-venv

.DEFAULT_GOAL := help
.PHONY: help deps run-emu test check bench clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

deps: $(VENV)/.stamp  ## install what is missing: Debian packages (asks sudo), Python packages into .venv (1 min)

run-emu: deps  ## boot a stock Debian kernel and trace its vfs_* calls from outside (2 min the first time)
	$(PY) -m fprobe_gdb trace -i vfs_open -i vfs_read -i vfs_write -- cat /etc/motd

test: deps  ## all tests, on real kernels (under 15 min)
	$(PY) -m pytest

check: deps  ## ruff, ruff format, mypy --strict, unit tests (1 min)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PY) -m pytest -q tests/unit

bench: deps  ## cost of a hit by way, as ratios within one run (5 min)
	$(PY) -m tests.bench

clean:  ## remove .venv and build products; keeps the download cache
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(VENV)/.stamp: pyproject.toml Makefile
	@missing=$$(dpkg-query -W -f='$${Package} $${Status}\n' $(DEBS) 2>/dev/null | awk '/install ok installed/{print $$1}' \
	  | sort > /dev/null; for p in $(DEBS); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then $(SUDO) apt-get update -q && \
	  DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -q -y --no-install-recommends $$missing; fi
	test -x $(PY) || python3 -m venv $(VENV)
	$(PY) -m pip install -q -e '.[dev]'
	touch $@
