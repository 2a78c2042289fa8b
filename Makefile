# make demo | make test: the two commands of a fresh machine. Everything lives in .venv and build/.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SOURCES := $(wildcard kfix_md/*.pyx kfix_md/*.pxd kfix_md/*.h) setup.py

.PHONY: all build demo test lint sanitize clean

all: build

# the requirements are read off pyproject.toml, so that they are written once
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check --upgrade 'setuptools>=70' 'Cython>=3.1,<3.4'
	$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --editable '.[operator,simulator,test]'
	touch $@

build/.built: $(VENV)/.ready $(SOURCES)
	$(PY) setup.py -q build_ext --inplace --parallel 2
	touch $@

build: build/.built

test: build lint
	$(PY) -m pytest

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint kfix_md

demo: build
	$(PY) -m kfix_md.demo

clean:
	rm -rf build .venv dist *.egg-info kfix_md/*.so
