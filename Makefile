# Every target is a name for a script; what is up to date is skipped by the script itself,
# with its reason.
.DEFAULT_GOAL := help
.PHONY: help setup packages venv runtime image-mini image-container image-debian demo test check bench soak fuzz sbom lock clean distclean
.NOTPARALLEL:

VDC_CACHE_DIR ?= /var/cache/vdc
export VDC_CACHE_DIR

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make this machine ready: packages, .venv, QEMU, images (repeat at will)
	@images/setup/setup.sh

packages: ## only the Debian packages
	@images/setup/packages.sh

venv: ## only the Python environment .venv
	@images/setup/venv.sh

runtime: ## only the runtime root with QEMU
	@images/runtime/build.sh

image-mini: runtime ## only the demo image mycelium/mini
	@images/mini/build.sh

image-container: ## only mycelium/container, what container images boot with
	@images/container/build.sh

image-debian: runtime ## only the Debian disk image (no part of setup; tests build it when they need it)
	@images/debian/build.sh

demo: setup ## three hosts on this machine, a power cut, and a session that lives on
	@.venv/bin/python -m vdc.lab.demo

test: setup check ## all checks, then the simulation deeper, integration and end-to-end tests
	@echo '==> simulation, deeper'
	@VDC_SIMULATION=deep .venv/bin/pytest tests/unit/test_simulation.py -n auto
	@echo '==> parsers and the API under generated input, deeper'
	@VDC_FUZZ=deep .venv/bin/pytest tests/unit/test_fuzz_parsers.py tests/unit/test_api_contract.py -n auto
	@.venv/bin/python -m tests.fuzz --runs 5000
	@echo '==> integration tests'
	@.venv/bin/pytest tests/integration -n 2 --dist loadfile
	@echo '==> end-to-end tests'
	@.venv/bin/pytest tests/e2e -m 'not alone' -n 2 --dist loadfile
	@.venv/bin/pytest tests/e2e -m alone

check: ## format, lint, types, layers, scripts, unit tests (under two minutes)
	@images/setup/check.sh

bench: setup ## measure; prints a table and writes JSON
	@.venv/bin/python -m tests.bench

# MINUTES, FAULTS (how many at most), SEED and FROM (the first one's number) choose; see tests/soak.
soak: setup ## random faults for MINUTES=30 with a client that watches; SEED=n has them again
	@.venv/bin/python -m tests.soak --minutes $(or $(MINUTES),30) $(if $(FAULTS),--faults $(FAULTS)) \
		$(if $(SEED),--seed $(SEED)) $(if $(FROM),--from $(FROM))

fuzz: ## atheris on every parser; RUNS=20000 inputs each, TARGETS="disk config" chooses
	@.venv/bin/python -m tests.fuzz --runs $(or $(RUNS),20000) $(TARGETS)

sbom: ## what the product consists of, as CycloneDX JSON: build/sbom/python.cdx.json, runtime.cdx.json
	@mkdir -p build/sbom
	@for part in python runtime; do .venv/bin/vdc doctor --sbom $$part >build/sbom/$$part.cdx.json || exit; done

lock: ## write requirements/*.txt anew
	@images/setup/lock.sh

clean: ## remove .venv and the caches in this folder
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## also remove the runtime root and the images
	@rm -rf "$(VDC_CACHE_DIR)/runtime" "$(VDC_CACHE_DIR)/images" "$(VDC_CACHE_DIR)/go" "$(VDC_CACHE_DIR)/log"
