# Every target works in a fresh clone: each makes .venv/ first, if it is not there yet.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
READY := .venv/.ready
COMPILED := .venv/.compiled
# Of `make test`: for half of the time a worker waits, for a broker or for a delay.
WORKERS := 4
# A file runs in one worker: what its tests share, such as a node of RabbitMQ, is started once.
BY_FILE := --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup wheel deb check check-perf format test test-systemd test-containers quick mutate demo run corpus bench bench-fairness bench-hostile bench-tenants bench-extract bench-underrated corpus-rules conformance faults soak pins clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The bytecode is written here, also where PYTHONDONTWRITEBYTECODE is set: the tests start over a
# thousand processes, and an eighth of a second of each start would go into compiling.
setup: $(READY) $(COMPILED)  ## make .venv/ with everything pinned, and the daemon in it
	$(BIN)/python -m compileall -q scraperd tests benchmarks

$(READY): requirements/run.txt requirements/dev.txt pyproject.toml
	sh tests/rig/venv.sh "$(PYTHON)" .venv
	$(PIP) --require-hashes -r requirements/run.txt -r requirements/dev.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

# Without a C compiler this says so, goes on, and tries again the next time.
$(COMPILED): $(READY) hatch_build.py requirements/lexbor.txt $(wildcard scraperd/extract/compiled/*.p*)
	if $(BIN)/python hatch_build.py; then touch $@; fi

wheel: setup  ## dist/: a wheel with the compiled extraction, if setup could build that
	$(BIN)/python -m hatchling build -t wheel

deb: setup  ## dist/: a package for this machine's release of Debian or Ubuntu, with all libraries
	$(BIN)/python -m debian.build

check: setup  ## lint, format, types, imports, the house rules, spelling and plain English
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy -p tests.rig -p tests.oracles -p tests.faults -p tests.conformance -p benchmarks
	$(BIN)/lint-imports
	$(BIN)/python -m tests.rig.checks.house
	$(BIN)/codespell
	$(BIN)/python -m tests.rig.checks.prose

format: setup  ## format the code and fix what can be fixed by machine
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: setup  ## run all tests, with a RabbitMQ and nginx of their own; T=tests/extract/test_casts.py runs one
	$(BIN)/python -m pytest $(if $(T),$(T),-n $(WORKERS) $(BY_FILE))

test-systemd: setup  ## the package and the units on a Debian 12 that boots (root; a tree in .cache/, made once)
	$(BIN)/python -m pytest -s --durations=0 --timeout=240 $(if $(T),$(T),tests/booted)

test-containers: setup  ## the image, built by podman and run as the Helm chart runs it; needs root, podman, debootstrap
	$(PIP) --require-hashes -r requirements/containers.txt
	$(BIN)/python -m pytest tests/containers/images.py

quick: setup  ## in about a minute: the tests that need no broker and no network namespace
	$(BIN)/python -m pytest -p tests.rig.checks.quick -n 2 --dist load $(T)

mutate: setup  ## change a room one place at a time, and see which change no test notices; ROOM=, TESTS=
	$(PIP) --require-hashes -r requirements/mutate.txt
	$(BIN)/python -m tests.rig.checks.mutate $(ROOM) $(if $(TESTS),--tests $(TESTS)) $(if $(ONLY),--only $(ONLY))

demo: setup  ## 500 real pages through a private RabbitMQ and the daemon, with a table of results
	$(BIN)/python -m examples.demo

run: setup  ## the daemon in the foreground, on a private RabbitMQ
	$(BIN)/python -m examples.run_private

corpus: setup  ## 1,700 real pages through the daemon, each result checked by another parser
	$(BIN)/python -m benchmarks.corpus

bench: setup  ## pages/s, CPU, memory, latency beside other workers; WORKLOAD=, ROUNDS=, ONLY=, PAGES=, LIST=1
	$(BIN)/python -m benchmarks.throughput $(if $(LIST),--list) $(if $(WORKLOAD),--workload $(WORKLOAD)) \
	    $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(PAGES),--pages $(PAGES)) $(if $(ONLY),--only $(ONLY)) \
	    $(if $(TREE),--tree $(TREE))

check-perf: setup  ## instructions a job, by valgrind, against the stored figure: 5 % more fails; STORE=1 stores it
	$(BIN)/python -m benchmarks.instructions $(if $(STORE),--store)

bench-fairness: setup  ## one strict host beside many fast ones in one queue; half an hour
	$(BIN)/python -m benchmarks.fairness

bench-hostile: setup  ## bombs, drips and floods: memory, timeouts, and how the neighbours fare
	$(BIN)/python -m benchmarks.hostile

bench-tenants: setup  ## one tenant's latency beside each attack of another; ONLY=name, SHORT=1, LIST=1
	$(BIN)/python -m benchmarks.tenants $(if $(LIST),--list) $(if $(ONLY),--only $(ONLY)) \
	    $(if $(SHORT),--short) $(if $(KEEP),--keep $(KEEP)) $(if $(RELEASE),--release $(RELEASE))

bench-extract: setup  ## the worst pages and rules there are, beside ordinary traffic; memory at 5,000 jobs
	$(BIN)/python -m benchmarks.extraction

bench-underrated: setup  ## search for pages and selectors that take longer than foretold; SECONDS=, SEED=
	$(BIN)/python -m tests.oracles.underrated $(if $(SECONDS),--seconds $(SECONDS)) $(if $(SEED),--seed $(SEED))

corpus-rules: setup  ## 3,000 real pages, rule by rule, each value checked by another parser
	$(BIN)/python -m benchmarks.rules_corpus

conformance: setup  ## published test corpora through the functions of a job: what differs, and why
	$(BIN)/python -m tests.conformance

faults: setup  ## break everything on purpose, count the jobs; ONLY=name, SHORT=1, RABBITMQ=4
	$(BIN)/python -m tests.faults $(if $(ONLY),--only $(ONLY)) $(if $(SHORT),--short) \
	    $(if $(RABBITMQ),--rabbitmq $(RABBITMQ)) $(if $(MARKDOWN),--markdown $(MARKDOWN))

soak: setup  ## half an hour of random faults under load, with flat memory; MINUTES=, SEED=, RABBITMQ=4
	$(BIN)/python -m tests.faults.soak $(if $(MINUTES),--minutes $(MINUTES)) \
	    $(if $(SEED),--seed $(SEED)) $(if $(RABBITMQ),--rabbitmq $(RABBITMQ))

pins: setup  ## write requirements/*.txt again from requirements/*.in
	$(PIP) uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header \
	    --generate-hashes --upgrade requirements/run.in -o requirements/run.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header \
	    --generate-hashes --upgrade requirements/dev.in -o requirements/dev.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header \
	    --generate-hashes --upgrade requirements/callbacks.in -o requirements/callbacks.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header \
	    --generate-hashes --upgrade requirements/build.in -o requirements/build.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header \
	    --generate-hashes --upgrade requirements/clients.in -o requirements/clients.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header \
	    --generate-hashes --upgrade requirements/containers.in -o requirements/containers.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header \
	    --generate-hashes --upgrade requirements/mutate.in -o requirements/mutate.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --no-annotate --no-header \
	    --generate-hashes --upgrade requirements/bench.in -o requirements/bench.txt

clean:  ## remove everything that make made
	rm -f scraperd/extract/compiled/*.so scraperd/extract/compiled/LICENSE.lexbor
	rm -rf .venv .cache build dist .coverage .coverage.* htmlcov
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
