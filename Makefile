# Every target does all of its own set-up; what is there already is left alone. ARGS goes to the program: make test ARGS="-k dns".
PYTHON ?= python3
BIN := .venv/bin
SETUP = scripts/need-python3 $(PYTHON) && $(PYTHON) -m scripts.setup

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo demo-kubernetes test test-kernels test-kubernetes test-long test-faults check bench bench-path bench-short-circuit image setup lint-fix constraints clean

help:
	@echo "make demo         two clusters on this machine, one global service, a failover to watch (root)"
	@echo "make demo-kubernetes  the same on two joined clusters of real Kubernetes, with kubectl and meshctl (root)"
	@echo "make test         everything that can run here; closes with what could not"
	@echo "make test-kernels the same programs and packets on Debian's kernels 6.1 and 6.12, in QEMU (root)"
	@echo "make test-kubernetes  only what needs Kubernetes, which is built and started here (part of make test)"
	@echo "make check        linters, types, import contracts, generated files"
	@echo "make test-long    1 GB transfers, hundreds of faults"
	@echo "make test-faults  30 faults in three clusters under load, some overlapping: right outcome, times (root)"
	@echo "make bench        what a service address costs, against kube-proxy's rules (root)"
	@echo "make bench-path   what a packet's way between pods costs, against plain routing (root)"
	@echo "make bench-short-circuit   the same from socket to socket, against a Unix socket and Envoy (root)"
	@echo "make image        the container images of the agent and of the mesh's etcd, without a container daemon (root)"
	@echo "make setup        only the set-up that the others do by themselves"
	@echo "make lint-fix     format Python and C, and mend what ruff can"
	@echo "make clean        remove all that was made in this directory; Debian packages stay"

demo:
	@scripts/need-python3 $(PYTHON) && $(PYTHON) -m scripts.preflight
	@$(SETUP) demo
	@$(BIN)/meshctl lab demo $(ARGS)

demo-kubernetes:
	@scripts/need-python3 $(PYTHON) && $(PYTHON) -m scripts.preflight
	@$(SETUP) test
	@$(BIN)/python -m scripts.kubernetes.demo $(ARGS)

test:
	@$(SETUP) test
	@$(BIN)/python -m scripts.test $(ARGS)

test-kernels:
	@$(SETUP) kernels
	@$(BIN)/python -m scripts.kernels $(ARGS)

test-kubernetes:
	@$(SETUP) test
	@$(BIN)/python -m pytest tests/kubernetes $(ARGS)

test-long:
	@$(SETUP) test
	@$(BIN)/python -m pytest -m long --timeout=1800 $(ARGS)

test-faults:
	@scripts/need-python3 $(PYTHON) && $(PYTHON) -m scripts.preflight
	@$(SETUP) test
	@$(BIN)/python -m meshd.lab.faults $(ARGS)

check:
	@$(SETUP) check
	@$(BIN)/python -m scripts.check

bench:
	@scripts/need-python3 $(PYTHON) && $(PYTHON) -m scripts.preflight
	@$(SETUP) bench
	@$(BIN)/meshctl bench service-lb $(ARGS)

bench-path:
	@scripts/need-python3 $(PYTHON) && $(PYTHON) -m scripts.preflight
	@$(SETUP) bench
	@$(BIN)/meshctl bench path $(ARGS)

bench-short-circuit:
	@scripts/need-python3 $(PYTHON) && $(PYTHON) -m scripts.preflight
	@$(SETUP) bench
	@$(BIN)/meshctl bench short-circuit $(ARGS)

image:
	@$(SETUP) image
	@$(BIN)/python -m scripts.image $(ARGS)

setup:
	@$(SETUP) test

lint-fix:
	@$(SETUP) check
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/python -c 'from scripts.check import c_files; print(*c_files(), sep="\n")' | xargs $(BIN)/clang-format -i

# The newest versions that fit pyproject.toml become the ones that everybody gets.
constraints:
	@$(SETUP) constraints
	@$(BIN)/python -m scripts.constraints

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f meshd/kernel/_libbpf*.so meshd/kernel/_libbpf.c meshd/kernel/meshd.bpf.o meshd/ctl/meshd-cni.* meshd/bench/path-probe
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
