# make demo | make test: the two commands of a fresh machine. Everything lives in .venv and build/.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SOURCES := $(shell find kfix_md recorder tests -name '*.pyx' -o -name '*.pxd' -o -name '*.h') setup.py
# the tests' compiled rigs are built with the package, in place
export KFIX_TEST_RIGS := 1

.PHONY: all build demo test lint sanitize chaos soak clean

all: build

# the requirements are read off pyproject.toml, so that they are written once
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check --upgrade 'setuptools>=70' 'Cython>=3.1,<3.4'
	KFIX_NO_EXTENSIONS=1 $(PY) -m pip install -q --disable-pip-version-check --no-build-isolation --editable '.[operator,simulator,test]'
	touch $@

build/.built: $(VENV)/.ready $(SOURCES)
	$(PY) setup.py -q build_ext --inplace --parallel 2
	touch $@

build: build/.built

test: build lint
	$(PY) -m pytest

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check -q .
	$(VENV)/bin/clang-format --dry-run -Werror $$(git ls-files '*.h' '*.c' '*.cpp')
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint kfix_md recorder tests

# the core's tests with AddressSanitizer and UndefinedBehaviorSanitizer, in a copy of the tree
SANITIZED := build/sanitize
sanitize: $(VENV)/.ready
	mkdir -p $(SANITIZED)
	tar -cf - --exclude='*.so' --exclude=__pycache__ kfix_md recorder tests benchmarks setup.py pyproject.toml README.md \
	  | tar -xf - -C $(SANITIZED)
	cd $(SANITIZED) && KFIX_SANITIZE=1 "$(CURDIR)/$(PY)" setup.py -q build_ext --inplace --parallel 2
	cd $(SANITIZED) && LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	  "$(CURDIR)/$(PY)" -m pytest -p no:cacheprovider tests/core \
	  tests/shm/test_books.py tests/shm/test_bursts.py tests/shm/test_orders_trades.py tests/shm/test_torn.py \
	  tests/journal tests/recorder/test_rows.py tests/recorder/test_replay.py tests/recorder/test_queries.py

demo: build
	$(PY) -m kfix_md.cli.demo

# four services, faults several times a second, a rollover every 20 s; every LIVE book against the venue's truth
CHAOS_SECONDS ?= 180
CHAOS_SEED ?= 1
chaos: build
	$(PY) -m tests.chaos.run --seconds $(CHAOS_SECONDS) --symbols 100 --rate 300 --faults 5 --rollover 20 --seed $(CHAOS_SEED)

# 10^8 messages and a rollover every 20 s through one feed: memory, files, tasks and lag must stay flat
SOAK_MESSAGES ?= 1e8
soak: build
	$(PY) -m tests.chaos.soak --messages $(SOAK_MESSAGES)

clean:
	rm -rf build .venv dist *.egg-info
	find kfix_md recorder tests -name '*.so' -delete

.PHONY: torn
# torn readings of shared memory: 10^8 against a writer at a million a second, and flat out; then what reading costs
torn: build
	$(PY) benchmarks/shm_torn.py
	$(PY) benchmarks/shm_read.py
