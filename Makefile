# Everything a person or CI does here. `make` alone lists the targets; each sets up what it needs.

PYTHON ?= python3
# more for a command's own line, such as `make demo ARGS=--once` or `make test ARGS="-k heal"`
ARGS ?=
# how long `make soak` goes on: 600, 10min, 2h
DURATION ?= 10min

VENV := .venv
BIN := $(VENV)/bin
# made once the environment is complete, so that an interrupted set-up starts again
READY := $(VENV)/.ready
LOCKS := requirements.lock requirements-build.lock requirements-dev.lock
UV_VERSION := 0.13.9
PIP_AUDIT_VERSION := 2.10.1

export PYTHONUNBUFFERED := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

say = @printf '\n==> %s\n' $(1)

define check_python
@command -v $(PYTHON) >/dev/null || { \
	echo 'vaultsync: no $(PYTHON) here; install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.13' >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	echo 'vaultsync needs Python 3.11 or newer, and $(PYTHON) is older. Name another: make PYTHON=python3.13' >&2; exit 1; }
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv lint format test test-unit soak demo bench testbed chart lock licences audit sbom build check-build clean

help:
	@echo 'make demo      start everything from nothing and watch vaultsync seed and heal; ARGS=--once ends by itself'
	@echo 'make test      every test, on real Vault, Kubernetes and external-secrets; ARGS="-k heal" runs some of them'
	@echo 'make test-unit only the tests without servers: half a minute on 2 cores'
	@echo 'make soak      break the real servers by a seed, heal them and check, for DURATION=10min; ARGS="--seed 7" replays'
	@echo 'make lint      style, types, layers, manifests, Dockerfile, scripts'
	@echo 'make format    put the style right'
	@echo 'make bench     vaultsync beside its peers and at three sizes, an hour; writes docs/benchmarks.md. ARGS=--quick does not'
	@echo 'make testbed   build the real servers into the cache, and say where they are'
	@echo 'make chart     write the settings into the schema of the Helm chart, and copy deploy/monitoring into it'
	@echo 'make build     wheel and sdist into dist/'
	@echo 'make sbom      the bill of materials of what runs (CycloneDX) into dist/'
	@echo 'make check-build  build both, and the same from the sdist; install as the Dockerfile does, and run it'
	@echo 'make lock      lock the dependencies again, keeping versions that still fit; ARGS=--upgrade takes the newest'
	@echo 'make licences  list the licences of what is locked in docs/licences.md, and refuse one that is not permitted'
	@echo 'make audit     ask for known vulnerabilities in what is locked; Error 1: there are some, Error 3: nobody could be asked'
	@echo 'make venv      only set up .venv; all targets above do it by themselves'
	@echo 'make clean     remove what the targets made here; the servers in ~/.cache stay'
	@echo
	@echo 'PYTHON=python3.13 chooses the Python (3.11 or newer).'

venv: $(READY)

$(READY): requirements-dev.lock pyproject.toml
	$(check_python)
	$(call say,'setting up $(VENV) (once, and after a change of the lock file)')
	$(PYTHON) -m venv --clear $(VENV) || { echo 'vaultsync: $(PYTHON) can not make a venv; on Debian: apt-get install python3-venv' >&2; exit 1; }
	$(BIN)/python -m pip install --require-hashes --requirement requirements-dev.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

lint: $(READY)
	$(call say,'ruff: rules and format')
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(call say,'mypy --strict: vaultsync and tests')
	$(BIN)/mypy
	$(call say,'import-linter: the layers of vaultsync')
	$(BIN)/lint-imports
	$(call say,'yamllint: the manifests')
	$(BIN)/yamllint --strict deploy .yamllint.yaml
	$(call say,'hadolint: the Dockerfile')
	$(BIN)/hadolint Dockerfile
	$(call say,'shellcheck: .ci/run')
	$(BIN)/shellcheck .ci/run
	$(call say,'pip check: what is installed is what pyproject.toml asks for')
	$(BIN)/python -m pip check

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: testbed
	$(call say,'every test')
	$(BIN)/python -m pytest tests $(ARGS)

test-unit: $(READY)
	$(BIN)/python -m pytest tests/unit --numprocesses 2 --dist worksteal $(ARGS)

soak: testbed
	$(call say,'faults for $(DURATION)')
	$(BIN)/python -m tests.faults --seconds $(DURATION) $(ARGS)

demo: $(READY)
	$(BIN)/python -m tests.demo $(ARGS)

bench: $(READY)
	$(BIN)/python -m tests.bench $(ARGS)

testbed: $(READY)
	$(call say,'the servers (minutes if they are not in the cache yet)')
	$(BIN)/python -m tests.testbed build --all

chart: $(READY)
	$(BIN)/python -m tests.chart

build: $(READY)
	rm -rf dist
	$(BIN)/hatchling build

sbom: $(READY)
	$(BIN)/python -m tests.supply sbom dist/vaultsync.cdx.json

# In another folder, at another time, for another user: what is built must be the same to the last bit.
check-build: build sbom
	$(call say,'the same again$(comma) from the unpacked sdist')
	rm -rf build/again
	mkdir -p build/again
	umask 077 && tar -xzf dist/*.tar.gz -C build/again --strip-components=1 && find build/again -exec touch {} +
	cd build/again && umask 077 && TZ=Asia/Kathmandu ../../$(BIN)/hatchling build
	for file in dist/*.whl dist/*.tar.gz; do cmp "$$file" "build/again/$$file" || exit 1; done
	$(call say,'the wheel in an empty environment with the locked dependencies')
	rm -rf build/check
	$(PYTHON) -m venv build/check
	build/check/bin/python -m pip install --quiet --require-hashes --requirement requirements.lock
	build/check/bin/python -m pip install --quiet --no-index --no-deps dist/*.whl
	build/check/bin/python -m pip check
	cd build && check/bin/vaultsync version && check/bin/vaultsync run --help >/dev/null

licences: $(READY)
	$(BIN)/python -m tests.supply licences

# pip-audit has an environment of its own, as nothing else needs it; nor does CI, whose machine may reach none of its sources.
PIP_AUDIT := build/audit/bin/pip-audit

$(PIP_AUDIT): Makefile
	$(check_python)
	$(PYTHON) -m venv --clear build/audit
	build/audit/bin/python -m pip install pip-audit==$(PIP_AUDIT_VERSION)
	@touch $@

audit: $(READY) $(PIP_AUDIT)
	$(BIN)/python -m tests.supply audit $(PIP_AUDIT) $(ARGS)

# uv has an environment of its own: `make lock` must work also when the lock files do not.
UV := build/uv/bin/uv
# The files name no registry: each machine's own configuration does.
COMPILE := UV_CUSTOM_COMPILE_COMMAND='make lock' $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url $(ARGS)
BUILD_REQUIRES := $(PYTHON) -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], sep="\n")'

$(UV): Makefile
	$(check_python)
	$(PYTHON) -m venv --clear build/uv
	build/uv/bin/python -m pip install uv==$(UV_VERSION)
	@touch $@

lock: $(UV)
	$(call say,'requirements.lock: what runs')
	$(COMPILE) --output-file requirements.lock pyproject.toml
	$(call say,'requirements-build.lock: what builds the wheel')
	$(BUILD_REQUIRES) | $(COMPILE) --output-file requirements-build.lock -
	$(call say,'requirements-dev.lock: both$(comma) and what tests and lints')
	$(BUILD_REQUIRES) | $(COMPILE) --constraint requirements.lock --constraint requirements-build.lock \
		--extra dev --output-file requirements-dev.lock pyproject.toml -
	@grep --count '==' $(LOCKS)

comma := ,

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find vaultsync tests -name __pycache__ -type d -prune -exec rm -rf {} +
