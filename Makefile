# Everything a contributor runs, and what CI runs, is a target here; docs/contributing.md says more.
#
# A machine with CPython 3.11 or newer and git is enough. The first target makes `.venv`; later ones
# install what their dependency group still lacks, and again when pyproject.toml changes.

.DEFAULT_GOAL := help
.NOTPARALLEL:                     # several targets install into one environment
.DELETE_ON_ERROR:

bin := .venv/bin
code := kestrel_core transports protocols middleware tests docs/examples
wheel_directory := dist

# The stamp of one group in the environment `.venv`, and of the tests in `.venv-3.12` and so on.
installed := .venv/.installed-

.venv/.installed-%: pyproject.toml kestrel_core/_version.py .ci/environment
	.ci/environment .venv any $*
	@touch $@

.venv-%/.installed-test: pyproject.toml kestrel_core/_version.py .ci/environment
	.ci/environment .venv-$* $* test
	@touch $@

.PRECIOUS: .venv/.installed-% .venv-%/.installed-test

.PHONY: help
help:  ## list the targets
	@sed -n 's/^\([a-z][a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
	    while IFS='|' read -r name text; do printf '  make %-13s %s\n' "$$name" "$$text"; done

.PHONY: serve
serve: $(installed)demo  ## serve the demo application; ARGS='--listen ...' is handed on
	$(bin)/kestrel --app-dir docs/examples demo:app $(ARGS)

.PHONY: test
test: $(installed)test  ## run the tests; ARGS='tests/unit -k limits' is handed on
	$(bin)/python -m pytest $(ARGS)

.PHONY: check
check: lint types completeness contracts docs package test-everywhere  ## everything CI checks, in its order

.PHONY: lint
lint: $(installed)lint  ## formatting and lint rules, nothing is changed
	$(bin)/ruff format --check
	$(bin)/ruff check
	$(bin)/ruff check --config .ci/core.ruff.toml kestrel_core

.PHONY: types
types: $(installed)test $(installed)lint  ## mypy and pyright, both strict
	$(bin)/mypy
	$(bin)/pyright --pythonpath $(bin)/python

# Takes its interpreter from the path alone.
.PHONY: completeness
completeness: $(installed)test $(installed)lint  ## every public name has a type that all checkers agree on
	@for package in kestrel_core kestrel_transports kestrel_protocols kestrel_middleware; do \
	    echo "pyright --verifytypes $$package"; \
	    PATH="$(CURDIR)/$(bin):$$PATH" $(bin)/pyright --verifytypes $$package --ignoreexternal || exit; \
	done

.PHONY: contracts
contracts: $(installed)lint  ## who may import whom
	$(bin)/lint-imports --no-logo

.PHONY: coverage
coverage: $(installed)test  ## run the tests and report what they do not reach
	$(bin)/coverage erase
	$(bin)/coverage run -m pytest
	$(bin)/coverage combine --quiet
	$(bin)/coverage report

.PHONY: test-everywhere
test-everywhere: $(installed)test  ## coverage, and beside it test-all
	@$(MAKE) test-all >.test-all.log 2>&1 & others=$$!; \
	$(MAKE) coverage; status=$$?; \
	wait $$others || status=1; cat .test-all.log; exit $$status

.PHONY: test-all
test-all: $(installed)test  ## run the tests on every other supported Python of this machine, all at once
	@own=$$($(bin)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	running=; \
	for version in $$(.ci/find-pythons | cut -d' ' -f1); do \
	    if [ $$version != $$own ]; then \
	        echo "testing on $$version"; \
	        $(MAKE) test-$$version >.test-$$version.log 2>&1 & running="$$running $$!:$$version"; \
	    fi; \
	done; \
	failed=0; \
	for each in $$running; do \
	    log=.test-$${each#*:}.log; \
	    if wait $${each%%:*}; then tail -n 3 $$log; else cat $$log; failed=1; fi; \
	done; \
	exit $$failed

test-3.%: .venv-3.%/.installed-test
	.venv-3.$*/bin/python -m pytest -m "not same_everywhere"

.PHONY: package
package: $(installed)package  ## build sdist and wheel, and use the wheel as strangers would
	rm -rf $(wheel_directory)
	$(bin)/python -m build --outdir $(wheel_directory)
	$(bin)/python .ci/smoke_test.py $(wheel_directory)/*.whl
	$(bin)/python .ci/example_package.py $(wheel_directory)/*.whl

.PHONY: docs
docs: $(installed)docs  ## build the documentation into .site
	$(bin)/mkdocs build --quiet --strict --config-file .mkdocs.yml

.PHONY: bench
bench: $(installed)test  ## run the benchmarks; ARGS is handed on
	$(bin)/python tests/benchmarks/run.py $(ARGS)

FUZZ_SECONDS ?= 60

.PHONY: fuzz
fuzz: $(installed)test $(installed)fuzz  ## look for input that breaks the server, FUZZ_SECONDS=60 a target
	@for target in $(notdir $(wildcard tests/fuzz/corpus/*)); do \
	    echo "fuzzing $$target for $(FUZZ_SECONDS) s"; \
	    $(bin)/python -m tests.fuzz.run $$target $(FUZZ_SECONDS) || exit; \
	done

FIRST ?= 0
SEEDS ?= 1000

.PHONY: simulate
simulate: $(installed)test  ## simulate clients and networks, SEEDS=1000 from FIRST=0 on; one is shown in full
	@$(bin)/python -m tests.simulation.run --first $(FIRST) --seeds $(SEEDS)

.PHONY: format
format: $(installed)lint  ## rewrite the code in the house's format
	$(bin)/ruff check --fix-only --select I
	$(bin)/ruff format

.PHONY: clean
clean:  ## remove what the targets made, but for the environments
	rm -rf .site build $(wheel_directory) htmlcov .coverage .coverage.* .test-*.log \
	    .fuzz .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find $(code) -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean  ## remove the environments, too
	rm -rf .venv .venv-*
