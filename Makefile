SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ARGS ?=
TESTS ?=
DATA ?=
BENCHMARKS ?= overhead start switching
IMAGE ?= bitgear
BASE ?= python:3.11-slim-bookworm
CONTAINER_ENGINE ?= $(shell if docker info > /dev/null 2>&1; then echo docker; elif command -v podman > /dev/null; then echo podman; fi)

BUILD_ARGS = --tag $(IMAGE) --build-arg BASE=$(BASE) \
	--build-arg VERSION=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' bitgear/__init__.py) \
	--build-arg REVISION=$$(git rev-parse HEAD 2> /dev/null || echo unknown)

SERVE := .venv
DEV := .venv-dev
PROJECTS := pyproject.toml clients/python/pyproject.toml constraints.txt

.PHONY: help serve test check bench train-smoke container lock clean

help:  ## Show this
	@echo "usage: make TARGET [ARGS='...'] [PYTHON=python3.12]"
	sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 16

serve: $(SERVE)/.installed  ## Serve the shipped models on http://127.0.0.1:8000; ARGS='--port 9000 --profile edge'
	@exec $(SERVE)/bin/bitgear serve $(ARGS)

test: $(DEV)/.installed  ## Run all tests; TESTS=tests/server ARGS='-x -k ladder'
	@exec $(DEV)/bin/python -m pytest $(ARGS) $(TESTS)

check: $(DEV)/.installed  ## Check format, lint, types and the Dockerfile
	@PATH=$$PWD/$(DEV)/bin:$$PATH
	status=0
	check() { echo "+ $$*"; "$$@" || status=1; }
	check ruff format --check .
	check ruff check .
	check mypy
	check mypy --config-file= --strict clients/python/bitgear_client
	check hadolint Dockerfile
	exit $$status

bench: $(DEV)/.installed  ## Measure, and write the results into the documents; BENCHMARKS=switching takes one, ARGS='--rounds 5'
	@for name in $(BENCHMARKS); do
		echo "== $$name"
		$(DEV)/bin/python -m benchmarks.$$name $(ARGS)
	done
	$(DEV)/bin/python -m benchmarks.publish

train-smoke: $(DEV)/.installed  ## Train, export and measure a tiny network: a minute; DATA=folder, else made-up pictures
	@data='$(DATA)'
	rm -rf runs/smoke
	if [ -z "$$data" ]; then
		data=runs/pictures
		rm -rf "$$data"
		$(DEV)/bin/python -m tests.e2e.pictures "$$data"
	fi
	$(DEV)/bin/bitgear train smoke --data "$$data" --out runs/smoke $(ARGS)
	cat runs/smoke/report.md

container:  ## Build the image; BASE=python@sha256:... pins the base, BASE=stand-in makes one from Debian packages
	@case "$(BASE):$(CONTAINER_ENGINE)" in
		stand-in:*) exec $(PYTHON) -m tests.e2e.containers $(IMAGE) $(ARGS) ;;
		*:docker)   exec docker build $(BUILD_ARGS) $(ARGS) . ;;
		*:podman)   exec podman build --format docker $(BUILD_ARGS) $(ARGS) . ;;
		*)          echo "error: no docker that answers, and no podman; install one, or name it: CONTAINER_ENGINE=" >&2; exit 1 ;;
	esac

lock:  ## Renew constraints.txt with the newest versions; run the tests before you commit it
	@rm -rf .venv-lock
	trap 'rm -rf .venv-lock' EXIT
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet --disable-pip-version-check .[train$(,)dev] ./clients/python[images]
	head -n 1 constraints.txt > constraints.txt.partial
	.venv-lock/bin/pip freeze --exclude bitgear --exclude bitgear-client | sed 's/+.*//' >> constraints.txt.partial
	mv constraints.txt.partial constraints.txt

clean:  ## Remove environments, caches and container storage
	@rm -rf $(SERVE) $(DEV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .ctr *.egg-info clients/python/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SERVE)/.installed: $(PROJECTS)
	@$(call make_environment,$(SERVE),-c constraints.txt -e . -e clients/python)

$(DEV)/.installed: $(PROJECTS)
	@$(call make_environment,$(DEV),-c constraints.txt -e .[train$(,)dev] -e clients/python[images])

, := ,
# $(1): folder, $(2): what pip installs. The stamp comes last: an install that was interrupted is done again.
define make_environment
command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or later, or name one: PYTHON=" >&2; exit 1; }
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "error: bitgear needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: PYTHON=" >&2; exit 1; }
$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	|| { echo "error: $(PYTHON) cannot make environments; install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
echo "installing into $(1) ..."
$(PYTHON) -m venv $(1)
$(1)/bin/pip install --quiet --disable-pip-version-check $(2)
touch $@
endef
