# `make run` and `make test` do all the set-up on a machine that has python3.11+, make and pip.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
LOCK := requirements/dev.txt

.PHONY: install run test test-slow lint types check bench crosscheck lock docs sample-report public-start clean

install: $(STAMP)

$(STAMP): $(LOCK) pyproject.toml
	$(PYTHON) -m venv --without-pip $(VENV)
	$(PYTHON) -m pip --python $(PY) install --quiet --disable-pip-version-check --require-hashes -r $(LOCK)
	$(PYTHON) -m pip --python $(PY) install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

run: install
	$(VENV)/bin/fedgan-secure run

lint: install
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: install
	$(VENV)/bin/mypy

docs: install
	$(PY) -m fedgan_cli.reference docs/cli.md

sample-report: install
	$(PY) docs/sample_report.py

# Hours on two cores; stopped, it goes on where it was. The weights that are shipped were trained on a GPU.
public-start: install
	mkdir -p build
	test -f build/public-start.npz || $(VENV)/bin/fedgan-secure pretrain --name fundus64-rebuilt/1 --output build/public-start.npz

crosscheck: install
	test -f .venv-crosscheck/.installed || $(PYTHON) -m venv --without-pip .venv-crosscheck
	test -f .venv-crosscheck/.installed || $(PYTHON) -m pip --python .venv-crosscheck/bin/python install --quiet --disable-pip-version-check --require-hashes -r requirements/crosscheck.txt
	touch .venv-crosscheck/.installed
	PYTHONPATH=.:protocols:audits:cli .venv-crosscheck/bin/python -m pytest -p no:cacheprovider tests/fedgan_secure/models tests/fedgan_secure/privacy

test: lint types
	$(PY) -m pytest -n 2 --dist loadgroup

test-slow: install
	$(PY) -m pytest -m slow

bench: install
	mkdir -p benchmarks/results
	for script in benchmarks/*.py; do $(PY) $$script --json > benchmarks/results/$$(basename $$script .py).json || exit 1; done

lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links -q -o requirements/run.txt
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links -q -o requirements/dev.txt
	uv pip compile requirements/verify.in --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links -q -o requirements/verify.txt
	uv pip compile pyproject.toml requirements/crosscheck.in --extra tfp --python-version 3.11 --python-platform x86_64-unknown-linux-gnu --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links -q -o requirements/crosscheck.txt
	uv pip compile benchmarks/flower/requirements.in --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links -q -o benchmarks/flower/requirements.txt
	uv pip compile tests/protocols/mutation/requirements.in --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links -q -o tests/protocols/mutation/requirements.txt
	uv pip compile tests/audits/oscal/requirements.in --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-emit-index-url --no-emit-find-links -q -o tests/audits/oscal/requirements.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
