# make demo | make test: the two commands of a fresh machine. Everything lives in .venv and build/.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SOURCES := $(shell find kfix_md recorder tests -name '*.pyx' -o -name '*.pxd' -o -name '*.h') setup.py

# each of the hundreds of processes that tests start would compile the package's modules again
unexport PYTHONDONTWRITEBYTECODE

.PHONY: all build shipped lock demo test lint sanitized-tree sanitize package wheels abi3 emulated docs coverage fuzz injected
.PHONY: alerts chaos faults soak trust upgrade power-loss ship-crash lake-crash demo-scale torn clean

all: build

# the requirements are read off pyproject.toml, so that they are written once; LOCKED=1 installs exactly the set that was
# tested, each file compared with its hash
PIP := $(PY) -m pip install -q --disable-pip-version-check
BUILD_REQUIRES := 'setuptools>=77,<90' 'Cython>=3.1,<3.4'
EXTRAS := operator lake nats simulator test docs
TESTED := requirements/tested.txt
empty :=
comma := ,
LOCKED ?= 0
$(VENV)/.ready: pyproject.toml
	@echo "$(VENV): installing the development tools (some 200 MB, a minute or two)"
	$(PYTHON) -m venv $(VENV)
ifeq ($(LOCKED),1)
	$(PIP) --require-hashes -r $(TESTED)
	KFIX_NO_EXTENSIONS=1 $(PIP) --no-deps --no-build-isolation --editable .
else
	$(PIP) --upgrade $(BUILD_REQUIRES)
	KFIX_NO_EXTENSIONS=1 $(PIP) --no-build-isolation --editable '.[$(subst $(empty) $(empty),$(comma),$(EXTRAS))]'
endif
	touch $@

# write the set down again, from what is installed; needs uv
lock: $(VENV)/.ready
	$(PY) -m pip freeze --exclude-editable > build/installed.txt
	printf '%s\n' $(BUILD_REQUIRES) | uv pip compile -q - pyproject.toml $(EXTRAS:%=--extra %) --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-annotate --constraint build/installed.txt -o $(TESTED)
	uv pip compile -q requirements/s3-server.in --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	  -o requirements/s3-server.txt

# the S3 server of tests/lake: what it needs contradicts the newest versions that the other tests run with
S3 := build/s3
$(S3)/.ready: requirements/s3-server.txt
	$(PYTHON) -m venv $(S3)
	$(S3)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r $<
	touch $@

build/.built: $(VENV)/.ready $(SOURCES)
	$(PY) setup.py -q build_ext --inplace
	touch $@

build: build/.built

# the compiled modules of the wheel that `make package` made, instead of compiling them again: tested as they are shipped
shipped: $(VENV)/.ready
	rm -rf build/wheel
	$(PY) -m zipfile -e build/dist/*.whl build/wheel
	cd build/wheel && find . -name '*.so' -exec cp --parents {} "$(CURDIR)" \;
	KFIX_TESTS_ONLY=1 $(PY) setup.py -q build_ext --inplace
	touch build/.built

# many tests wait for processes and timers: one worker more than there are cores
TEST_WORKERS ?= $(shell echo $$(( $$(nproc) + 1 )))
PYTEST := -m pytest -n $(TEST_WORKERS) --dist worksteal

test: build lint $(S3)/.ready
	KFIX_MOTO_SERVER="$(CURDIR)/$(S3)/bin/moto_server" $(PY) $(PYTEST)

# runs again when a file has changed
LINTED = $(wildcard $(shell git ls-files '*.py' '*.pyi' '*.pyx' '*.pxd' '*.h' '*.c' '*.cpp'))
lint: build/.linted
build/.linted: $(VENV)/.ready pyproject.toml $(LINTED)
	@mkdir -p build
	$(PY) -m ruff check .
	$(PY) -m ruff format --check -q .
	$(VENV)/bin/clang-format --dry-run -Werror $$(git ls-files '*.h' '*.c' '*.cpp')
	PATH="$(CURDIR)/$(VENV)/bin:$$PATH" cython-lint kfix_md recorder tests
	$(PY) -m mypy
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(VENV)/bin/pyright --level error
	touch $@

# what an instrumented build of the package needs; each such build has a copy of the tree for itself
COPIED := kfix_md recorder tests benchmarks docs examples monitoring deploy setup.py pyproject.toml mkdocs.yml README.md CONTRIBUTING.md CHANGELOG.md
define copy_tree
	mkdir -p $(1)
	tar -cf - --exclude='*.so' --exclude=__pycache__ $(COPIED) | tar -xf - -C $(1)
endef

# one instrumented build for the core's tests under AddressSanitizer and UndefinedBehaviorSanitizer, and for fuzzing
SANITIZED := build/sanitize
$(SANITIZED)/.built: $(VENV)/.ready $(SOURCES) tests/fuzz/coverage.c
	$(call copy_tree,$(SANITIZED))
	cd $(SANITIZED) && KFIX_SANITIZE=1 "$(CURDIR)/$(PY)" setup.py -q build_ext --inplace
	touch $@

# its modules have no run-time library of their own: it is gcc's in the tests, clang's with libFuzzer when fuzzing
GCC_ASAN = $$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)
FUZZER_ASAN = $$("$(CURDIR)/$(PY)" -c 'import atheris; print(atheris.path())')/asan_with_fuzzer.so
sanitized = cd $(SANITIZED) && LD_PRELOAD="$(1)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
  PYTHONMALLOC=malloc "$(CURDIR)/$(PY)"

sanitized-tree: $(SANITIZED)/.built
	$(call copy_tree,$(SANITIZED))

PYTHON_ALONE := tests/core/test_benchmarks.py tests/core/test_streams.py
sanitize: sanitized-tree
	$(call sanitized,$(GCC_ASAN)) $(PYTEST) -p no:cacheprovider tests/core tests/fuzz \
	  tests/shm/test_books.py tests/shm/test_bursts.py tests/shm/test_orders_trades.py tests/shm/test_torn.py \
	  tests/journal tests/recorder/test_rows.py tests/recorder/test_replay.py $(PYTHON_ALONE:%=--ignore=%)

# coverage-guided, each target of tests/fuzz/targets.py by libFuzzer (atheris); what was found is in build/fuzz.
# Its library is linked to from a place of its own: LD_PRELOAD ends a path at a space
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(notdir $(wildcard tests/fuzz/corpus/*))
fuzz: $(FUZZ_TARGETS:%=fuzz-%)
fuzz-%: sanitized-tree
	folder=$$(mktemp -d) && trap 'rm -r "$$folder"' EXIT && ln -s "$(FUZZER_ASAN)" "$$folder/asan.so" && \
	  $(call sanitized,$$folder/asan.so) -m tests.fuzz.run $* "$(CURDIR)/build/fuzz/$*" -max_total_time=$(FUZZ_SECONDS)

# the documentation as a site, build/site/index.html; a link that leads nowhere is an error
docs: build
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(PY) -m mkdocs build

# sdist and wheel from that sdist, both kept in build/dist, and the demo from the wheel in an empty environment, without a compiler
package: $(VENV)/.ready
	$(PY) -m tests.packaging.check

# manylinux wheels in dist/, one for each interpreter, by version or path; docs/platforms.md has where to get those that
# a system lacks
WHEEL_PYTHONS ?= $(PYTHON)
wheels:
	$(PYTHON) -m tests.packaging.wheels $(WHEEL_PYTHONS)

# one wheel by the limited API, for interpreters that have none of their own; each of WHEEL_PYTHONS installs and runs it
abi3:
	$(PYTHON) -m tests.packaging.wheels --abi3 $(WHEEL_PYTHONS)

# The tests of compiled code on processors that this machine is not, by qemu: SSE4.2, AVX2, and the wheel for ARM64, which is built here
PROCESSORS ?= Nehalem Haswell aarch64
emulated: build
	$(PY) -m tests.packaging.emulated $(PROCESSORS)

# coverage of Python and Cython over all processes of the test suite; fails below the floors of pyproject.toml
COVERED := build/coverage
# torn readings are only met at full speed, which traced code does not have
COVERAGE_TESTS ?= tests --ignore=tests/shm/test_torn.py
coverage: $(VENV)/.ready
	$(call copy_tree,$(COVERED))
	cd $(COVERED) && KFIX_COVERAGE=1 "$(CURDIR)/$(PY)" setup.py -q build_ext --inplace
	cd $(COVERED) && rm -f .coverage* && "$(CURDIR)/$(PY)" -m coverage run -m pytest -q $(COVERAGE_TESTS)
	cd $(COVERED) && "$(CURDIR)/$(PY)" -m coverage combine -q && "$(CURDIR)/$(PY)" -m coverage json -q -o coverage.json
	$(PY) -m tests.packaging.coverage_floors $(COVERED)/coverage.json

demo: build
	$(PY) -m kfix_md.cli.demo

# four services, faults several times a second, a rollover every 20 s; every LIVE book against the venue's truth
CHAOS_SECONDS ?= 180
CHAOS_SEED ?= 1
chaos: build
	$(PY) -m tests.chaos.run --seconds $(CHAOS_SECONDS) --symbols 100 --rate 300 --faults 5 --rollover 20 --seed $(CHAOS_SEED)

# clock steps, kills, stops, failing system calls, deleted files, at random over feed and recorder, and 50 spinning readers
FAULTS_SECONDS ?= 600
FAULTS_SEED ?= 1
faults: build
	$(PY) -m tests.faults.run --seconds $(FAULTS_SECONDS) --seed $(FAULTS_SEED) --readers 50

# 10^8 messages and a rollover every 20 s through one feed: memory, files, tasks and lag must stay flat
SOAK_MESSAGES ?= 1e8
soak: build
	$(PY) -m tests.chaos.soak --messages $(SOAK_MESSAGES)

# a real Prometheus scrapes a feed and a recorder with faults: every alert of monitoring/alerts.yml fires and clears
alerts: build
	KFIX_ALERTS=1 $(PY) -m pytest tests/monitoring

# every allocation and every file call of a scenario fails in turn, alone and with those after it (SQLite's way)
injected: build
	$(PY) -m tests.injected.run
	$(PY) -m tests.injected.run --times 4

# what readers of a feed trusted at every moment of random days, and what its captures say of it: no sample may differ
TRUST_SAMPLES ?= 1e6
trust: build
	$(PY) -m tests.recorder.trust_days --samples $(TRUST_SAMPLES)

# an upgrade: old and new feed side by side, the old one stopped; read as one, their captures lack no message
upgrade: build
	$(PY) -m tests.recorder.sites

# two feeds, a broker, mirrors and a lake on loopback; a feed, the broker and a mirror are killed; what came of it
demo-scale: build $(S3)/.ready
	KFIX_MOTO_SERVER="$(CURDIR)/$(S3)/bin/moto_server" $(PY) -m tests.scale.demo

# the power of feed and recorder is cut at every point of their log of writes: journal and captures must be sound there
power-loss: build
	$(PY) -m tests.recorder.power_loss

# shipper, mirror and broker killed at random points, the broker's data wiped at times: the replica is byte-identical
SHIP_KILLS ?= 300
SHIP_SEED ?= 1
ship-crash: build
	$(PY) -m tests.ship.crashes $(SHIP_KILLS) $(SHIP_SEED)

# pushes to a lake, in a directory and on an S3 server, ended at every step and killed: each row is there once
LAKE_KILLS ?= 25
LAKE_SEED ?= 1
lake-crash: build
	$(PY) -m tests.lake.crashes $(LAKE_KILLS) $(LAKE_SEED)

clean:
	rm -rf build .venv dist *.egg-info
	find kfix_md recorder tests -name '*.so' -delete

# torn readings of shared memory: 10^8 against a writer at a million a second, and flat out; then what reading costs
torn: build
	$(PY) benchmarks/shm_torn.py
	$(PY) benchmarks/shm_read.py
