# Everything a developer or CI runs. `make help` lists the targets.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run setup dev test test-all image check format bench bench-screening demo clean requirements assets screenshots chaos soak sbom audit

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH :=
# What was compiled once is kept: tests start hundreds of processes, each of which would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=
# Tests run side by side; they wait for processes and disks as much as they compute, so three suit two cores.
JOBS ?= 3

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

run: setup ## Set everything up and serve on 127.0.0.1:8080 with the embedded store
	$(BIN)/gateway serve

demo: setup ## Watch a runaway agent being stopped
	$(BIN)/gateway demo

setup: $(VENV)/.runtime $(VENV)/.assets ## Make the virtual environment with what the gateway needs

dev: $(VENV)/.dev $(VENV)/.assets ## ... and with what its tests and checks need, Redis included

$(VENV)/bin/python:
	sh .ci/bootstrap.sh venv "$(PYTHON)" "$(VENV)"

$(VENV)/.runtime: requirements/runtime.txt pyproject.toml | $(VENV)/bin/python
	@test -f $(VENV)/.dev || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/runtime.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	sh .ci/bootstrap.sh redis
	@touch $@ $(VENV)/.runtime

# The dashboard's libraries; without npm or a network everything else works, and the next call tries again.
$(VENV)/.assets: .ci/assets.toml .ci/assets.py | $(VENV)/bin/python
	@if sh .ci/bootstrap.sh node && $(BIN)/python .ci/assets.py; then touch $@; \
	else echo "The dashboard will say what is missing; everything else works." >&2; fi

assets: | $(VENV)/bin/python ## Fetch the dashboard's libraries from npm
	sh .ci/bootstrap.sh node
	$(BIN)/python .ci/assets.py
	@touch $(VENV)/.assets

screenshots: dev ## Pictures of each page of the dashboard, light and dark, into docs/screenshots
	sh .ci/bootstrap.sh browser
	$(BIN)/python -m tests.browser.screenshots $(ARGS)

test: | $(VENV)/bin/python ## The test suite: unit, integration on real Redis, the Python SDKs as clients
	@# The clients' own environments are made meanwhile; what an absent index means for them, their tests say.
	@$(BIN)/python -m tests.clients.environments >/dev/null & $(MAKE) --no-print-directory dev; made=$$?; wait; exit $$made
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "not node and not slow and not chaos and not soak" $(ARGS)

test-all: dev ## What needs more: Node clients, Claude Code and Codex, crashes and faults at length (after `make test`)
	sh .ci/bootstrap.sh node
	sh .ci/bootstrap.sh browser
	sh .ci/bootstrap.sh promtool
	sh .ci/bootstrap.sh proxies
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "(node or slow) and not browser" $(ARGS)
	@# The browser's driver keeps an event loop in its thread, which no other test could live with.
	$(BIN)/python -m pytest -m browser $(ARGS)

chaos: dev ## Faults at length: kills, dead networks, full disks, hostile clients; writes docs/reliability.md
	$(BIN)/python -m pytest -m chaos tests/chaos tests/integration/processes $(ARGS); ended=$$?; $(BIN)/python -m tests.chaos.report; exit $$ended

soak: dev ## 200,000 mixed requests: memory and open files do not grow; SOAK_REQUESTS=N for more
	$(BIN)/python -m pytest -m soak tests/chaos $(ARGS); ended=$$?; $(BIN)/python -m tests.chaos.report; exit $$ended

image: dev ## Build the container image on a local base, without a network, and see that it answers (as root)
	sh .ci/bootstrap.sh image
	$(BIN)/python -m pytest -q tests/deployment/test_image.py $(ARGS)

sbom: setup ## Write the software bill of materials (CycloneDX) to dist/sbom.cdx.json
	$(BIN)/python .ci/sbom.py --output dist/sbom.cdx.json

audit: | $(VENV)/bin/python ## Look the pinned packages up in a database of vulnerabilities (needs the Internet, and pip-audit in .venvs/audit)
	@test -x .venvs/audit/bin/pip-audit || { "$(PYTHON)" -m venv .venvs/audit && .venvs/audit/bin/python -m pip install --quiet pip-audit==2.10.1; }
	.venvs/audit/bin/pip-audit --disable-pip --require-hashes -r requirements/runtime.txt -r requirements/image.txt

check: dev ## Format check, lint, strict types, fast tests: before a commit
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow" tests/unit

format: dev ## Format and fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: dev ## Measure added latency and CPU beside direct calls and a plain pass-through
	$(BIN)/python -m benchmarks $(ARGS)

requirements: dev ## Pin again, with hashes and without any registry's address
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --extra demo --group build -o requirements/runtime.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --extra postgres --extra otel --group build -o requirements/image.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --extra classifier --extra demo --extra otel --extra postgres --group build --group dev -o requirements/dev.txt

bench-screening: dev ## Quality and speed of the detectors on labelled texts: make bench-screening DATA=folder
	$(BIN)/python -m benchmarks.screening $(DATA) $(ARGS)

clean: ## Remove what was made here
	rm -rf $(VENV) .venvs .mypy_cache .ruff_cache .pytest_cache .hypothesis dist *.egg-info
