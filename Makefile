SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
ARGS ?=
JSON ?=
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
PEER_SERVERS := build/peers/litserve/.installed build/peers/mlserver/.installed
NATIVE := CMakeLists.txt $(wildcard bitgear/native/*)

.PHONY: help serve test check bench bench-engine bench-slo bench-serving sanitize test-aarch64 train-smoke container lock clean

help:  ## Show this
	@echo "usage: make TARGET [ARGS='...'] [PYTHON=python3.12]"
	sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  \1\t\2/p' Makefile | expand -t 16

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
	check clang-format --dry-run --Werror $$(find bitgear/native tests/native -name '*.cpp' -o -name '*.h')
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

bench-engine: $(DEV)/.peers  ## Measure the native engine against others; JSON=FILE keeps the numbers, ARGS='--networks resnet50-224'
	@exec $(DEV)/bin/python -m benchmarks.engine $(if $(JSON),--json $(JSON)) $(ARGS)

bench-slo: $(DEV)/.installed  ## Measure the policies under load; DATA=FOLDER of data sets, JSON=FILE keeps the numbers, ARGS=--quick
	@exec $(DEV)/bin/python -m benchmarks.slo $(if $(DATA),--data $(DATA)) $(if $(JSON),--json $(JSON)) $(ARGS)

bench-serving: $(DEV)/.installed $(PEER_SERVERS)  ## Measure throughput and latency beside other servers; DATA=FOLDER of data sets, JSON=FILE
	@exec $(DEV)/bin/python -m benchmarks.serving $(if $(DATA),--data $(DATA)) $(if $(JSON),--json $(JSON)) $(ARGS)

sanitize: $(DEV)/.installed  ## Test the native engine under checks of memory and undefined behaviour
	@folder=build/sanitize
	export PATH=$$PWD/$(DEV)/bin:$$PATH ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
	cmake --log-level=WARNING -G Ninja -S . -B $$folder/check \
		-DCMAKE_BUILD_TYPE=Debug -DBITGEAR_SANITIZE=ON -DBITGEAR_WARNINGS_AS_ERRORS=ON
	cmake --build $$folder/check
	$$folder/check/check_kernels
	# An environment of its own that sees the packages of the other one, but not what is editable there.
	python -m venv --without-pip $$folder/environment
	packages='import sysconfig; print(sysconfig.get_path("purelib"))'
	python -c "$$packages" > "$$($$folder/environment/bin/python -c "$$packages")"/packages.pth
	export REQUIRE_BITGEAR_NATIVE=1
	python -m pip --python $$folder/environment/bin/python install --quiet --disable-pip-version-check --no-deps \
		--no-build-isolation --config-settings=build-dir=$$folder/extension --config-settings=cmake.build-type=Debug \
		--config-settings=cmake.define.BITGEAR_SANITIZE=ON --config-settings=cmake.define.BITGEAR_WARNINGS_AS_ERRORS=ON -e .
	compiler=$${CXX:-c++}
	LD_PRELOAD="$$($$compiler -print-file-name=libasan.so) $$($$compiler -print-file-name=libstdc++.so)" \
		$$folder/environment/bin/python -m pytest $(ARGS) tests/native --ignore tests/native/test_native_cpp.py

test-aarch64: $(DEV)/.installed  ## Check the kernels for AArch64 in an emulator; on Debian, as root, its tools are installed
	@if ! { command -v qemu-aarch64-static && command -v aarch64-linux-gnu-g++; } > /dev/null; then
		[ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null \
			|| { echo "error: install qemu-user-static and g++-aarch64-linux-gnu" >&2; exit 1; }
		apt-get update
		apt-get install -y --no-install-recommends qemu-user-static g++-aarch64-linux-gnu
	fi
	exec $(DEV)/bin/python -m pytest $(ARGS) -k aarch64 tests/native/test_native_cpp.py

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
	.venv-lock/bin/pip install --quiet --disable-pip-version-check .[train$(,)dev$(,)bench] ./clients/python[images]
	head -n 1 constraints.txt > constraints.txt.partial
	.venv-lock/bin/pip freeze --exclude bitgear --exclude bitgear-client | sed 's/+.*//' >> constraints.txt.partial
	mv constraints.txt.partial constraints.txt

clean:  ## Remove environments, caches and container storage
	@rm -rf $(SERVE) $(DEV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .ctr *.egg-info clients/python/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(SERVE)/.installed: $(PROJECTS) $(NATIVE)
	@$(call make_environment,$(SERVE))
	$(call install,$(SERVE),-e . -e clients/python)
	$(call note_native,$(SERVE))
	touch $@

# What builds the extension lies in the environment itself: a change of a source compiles that source alone.
$(DEV)/.tools: $(PROJECTS)
	@$(call make_environment,$(DEV))
	$(call install,$(DEV),scikit-build-core nanobind cmake ninja -e clients/python[images])
	touch $@

# Where there is a compiler, a failure is an error here and not a reason to do without the extension.
$(DEV)/.installed: $(DEV)/.tools $(NATIVE)
	@headers=$$($(DEV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("include"))')
	if command -v $${CXX:-c++} > /dev/null && [ -e "$$headers/Python.h" ]; then export REQUIRE_BITGEAR_NATIVE=1; fi
	$(call install,$(DEV),--no-build-isolation --config-settings=build-dir=build/{wheel_tag} \
		--config-settings=cmake.define.BITGEAR_WARNINGS_AS_ERRORS=ON -e .[train$(,)dev])
	$(call note_native,$(DEV))
	touch $@

# Other servers have environments of their own: what they pin is none of ours.
$(PEER_SERVERS): build/peers/%/.installed: benchmarks/peer_servers/%.txt
	@mkdir -p build/peers
	$(call make_environment,build/peers/$*)
	build/peers/$*/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(DEV)/.peers: pyproject.toml constraints.txt | $(DEV)/.installed
	@peers=$$($(DEV)/bin/python -c 'import tomllib; \
		print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["bench"])')
	$(call install,$(DEV),$$peers)
	touch $@

, := ,
# Each rule's stamp comes last: an install that was interrupted is done again. $(1): folder of the environment
define make_environment
command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) not found; install Python 3.11 or later, or name one: PYTHON=" >&2; exit 1; }
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "error: bitgear needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: PYTHON=" >&2; exit 1; }
$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null \
	|| { echo "error: $(PYTHON) cannot make environments; install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
echo "installing into $(1) ..."
$(PYTHON) -m venv $(1)
endef

# $(2): what pip installs
define install
$(1)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt $(2)
endef

define note_native
$(1)/bin/python -c 'import bitgear._native' 2> /dev/null || {
	echo "note: the native engine is not built, so ONNX Runtime serves: it takes a C++17 compiler and Python's headers"
	echo "      (Debian, Ubuntu: apt-get install g++ python3-dev). Once they are there: rm $@ and make again"
}
endef
