# meshnet: everything a fresh Debian 12 needs is installed by `make setup`; `make demo` and `make test` call it.
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.ready

.PHONY: setup compiled demo test quick lint unit packet fuzz lab labs interop bpf clean

setup: $(STAMP) bpf compiled

$(STAMP): setup.cfg pyproject.toml scripts/setup
	scripts/setup $(VENV)
	@touch $@

# Also where Python is told not to keep what it compiled (PYTHONDONTWRITEBYTECODE): a third of a command's start.
compiled: $(STAMP)
	@$(PY) -m compileall -q meshnet

bpf: $(STAMP)
	$(PY) -m meshnet.kernel.bpfbuild

demo: setup
	scripts/demo

# A kernel 6.1 to boot in a process (user-mode-linux, kmod) is only needed to test that the programs load there, the
# docker command (without its daemon) to test the engine with it.
# What clients of the engine are waited for in leaves a processor to the quick lanes; those of labs measure time, and
# have the machine to themselves.
# All lanes run, also after one that failed: what fails is told in one go.
test: setup $(VENV)/.ready-tests
	@failed=0; \
	$(MAKE) --no-print-directory -k -j2 --output-sync=line interop quick || failed=1; \
	$(MAKE) --no-print-directory -k lab labs || failed=1; \
	exit $$failed

quick: lint unit packet

$(VENV)/.ready-tests: $(STAMP)
	scripts/setup $(VENV) user-mode-linux kmod docker-command
	@touch $@

# The servers that labs use, unpacked aside and not installed: `meshnet lab get`.
$(VENV)/.ready-labs: $(STAMP) $(wildcard labs/*/lab.yml)
	$(PY) -m meshnet.cli lab get $(dir $(wildcard labs/*/lab.yml))
	@touch $@

lint: $(STAMP)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

unit: $(STAMP)
	$(PY) -m pytest tests/unit

packet: setup
	$(PY) -m pytest tests/packet

# Broken frames by the million, see docs/testing.md.
FRAMES ?= 1000000
fuzz: setup
	MESHNET_FUZZ=$(FRAMES) $(PY) -m pytest -m fuzz tests/packet

lab: setup $(VENV)/.ready-labs
	$(PY) -m pytest tests/lab --ignore tests/lab/test_teaching_labs.py

# What the READMEs of labs/ say, typed, with all their checks.
labs: setup $(VENV)/.ready-labs
	$(PY) -m pytest tests/lab/test_teaching_labs.py

interop: setup $(VENV)/.ready-tests
	$(PY) -m pytest -o timeout=150 tests/interop

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
