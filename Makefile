# make run | demo | test: each does all of its own set-up on a fresh Debian machine.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
# For a machine whose package index would give torch's CUDA build:
# make venv TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_ARGS ?=
SYSTEM := orthanc orthanc-dicomweb dcmtk dicom3tools openssl
# Debian's npm and a Node.js from elsewhere, which brings its own, exclude each other.
VIEWER := chromium fonts-dejavu-core $(shell command -v npm >/dev/null || echo npm)

.PHONY: help run demo test torture torture-kills torture-fuzz torture-soak lint venv system clean

help:
	@echo "make demo    send a study to a node on this machine and show what comes out"
	@echo "make run     start the node (Ctrl-C stops it)"
	@echo "make test    style, types and all tests"
	@echo "make torture the long tests: kill -9 at random, 100,000 broken inputs, 500 studies"
	@echo "make venv    only the set-up"

run: venv
	$(PY) -m app serve

demo: venv
	$(PY) -m app demo

# A lost test process ends the run at once, by name: xdist's replacement of it can leave the run waiting for ever.
test: system venv lint
	$(PY) -m pytest -n 2 --dist loadfile --max-worker-restart=0

# Hours, in this order: 200 kills, 100,000 broken inputs, 500 studies. An interrupted run goes on (kills) or begins anew;
# one alone: `make torture-kills`, `torture-fuzz`, `torture-soak`; shorter: python -m tests.torture --help.
torture: torture-kills torture-fuzz torture-soak

torture-kills: system venv
	$(PY) -m tests.torture kills --folder runs/torture/kills

torture-fuzz: system venv
	$(PY) -m tests.torture fuzz

torture-soak: system venv
	$(PY) -m tests.torture soak

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

venv: $(VENV)/.ready

# The first start lets Holoscan's wheel finish its own installation.
$(VENV)/.ready: requirements.txt requirements-quantise.txt tests/requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: apt-get install python3.11 python3.11-venv, or make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(call apt,python3.11-venv)
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet $(TORCH_ARGS) torch==2.13.0
	$(PY) -m pip install --quiet -r requirements.txt -r tests/requirements.txt
	$(PY) -c pass
	touch $@

# Orthanc, DCMTK and dciodvfy are what the tests talk to and judge by; openssl makes their certificates.
system:
	@test -x /usr/bin/storescu -a -x /usr/bin/openssl -a -x /usr/bin/dciodvfy -a -x /usr/sbin/Orthanc -a -e /usr/share/orthanc/plugins/libOrthancDicomWeb.so || $(call apt,$(SYSTEM))
# A browser, a font for it, and what fetches the viewer; without them the viewer's tests are skipped, and say so.
	@{ test -x /usr/bin/chromium -a -e /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf && command -v npm >/dev/null; } || ( $(call apt,$(VIEWER)) ) || echo "the viewer's tests will be skipped: no $(VIEWER)" >&2

clean:
	rm -rf $(VENV) .cache out var runs

define apt
{ if [ "$$(id -u)" = 0 ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1); \
else echo "as root: apt-get install $(1)" >&2; exit 2; fi; }
endef
