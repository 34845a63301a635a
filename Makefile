# Everything happens in .venv. `make` alone lists the targets.
#
# make setup PYTHON=python3.12     with another Python (3.10 or later); by default the first suitable one
# make setup TORCH=2.12.0          with another torch (2.10 or later); a suitable one already in .venv is kept
# make setup FAIRSEQ=../fairseq    with another fairseq of the 0.12 family, as pip would install it: a folder, a
#                                  requirement; by default what pyproject.toml says, or a suitable one already in .venv

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
READY := $(VENV)/ready
PINS := $(VENV)/constraints.txt
PYTHONS := python3 python3.11 python3.12 python3.13 python3.10

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format torture sanitize bench-op bench gpu wheel again

help:
	@echo "make setup      install everything into $(VENV) (minutes the first time, nothing when it is there)"
	@echo "make demo       train, evaluate and generate with a small model of each kind, 10 minutes"
	@echo "make test       the whole test suite, up to 20 minutes"
	@echo "make lint       ruff and clang-format say what they would change; make format changes it"
	@echo "make torture    kills, damage, malicious files, calls of the op in large numbers, sized for 30 minutes; or TORTURE_MINUTES=5"
	@echo "make sanitize   the tests of the op under AddressSanitizer and UndefinedBehaviorSanitizer (gcc)"
	@echo "make bench-op   the recurrence against a copy of its bytes"
	@echo "make bench      training speed against fairseq's transformer_lm"
	@echo "make gpu        everything about the speed of this machine's GPU, 8 minutes; options as GPU_ARGS='--minutes 4'"
	@echo "make wheel      a wheel in dist/"

setup: $(READY)

demo: $(READY)
	$(RUN) examples/quickstart/demo.py

test: $(READY)
	$(RUN) -m pytest -n 2 --dist loadfile tests  # two processes, one file in one of them

SOURCES = $(shell find csrc tests/ops/cuda_on_host -name '*.h' -o -name '*.cu*' -o -name '*.cpp' -o -name '*.inl')
lint: $(READY)
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --quiet --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(SOURCES)

format: $(READY)
	$(VENV)/bin/ruff check --quiet --fix .
	$(VENV)/bin/ruff format --quiet .
	$(VENV)/bin/clang-format -i $(SOURCES)

TORTURE_MINUTES ?= 30
torture: $(READY)
	$(RUN) tests/torture --minutes $(TORTURE_MINUTES) $(TORTURE_ARGS)

# A build of its own beside the usual one. The kernels written for CUDA run on the CPU in these tests, so they are checked too.
SANITIZED := $(CURDIR)/build/sanitized
sanitize: $(READY)
	FAIRSEQ_SRUPP_SANITIZE=1 FAIRSEQ_SRUPP_CUDA=0 $(RUN) setup.py --quiet build --build-base build/sanitize --build-lib $(SANITIZED)
	cd tests/ops && PYTHONPATH=$(SANITIZED) LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0 SRUPP_HOST_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -g1" \
	  $(CURDIR)/$(VENV)/bin/pytest -p no:cacheprovider $(SANITIZE_TESTS)
SANITIZE_TESTS := test_cpu_kernels.py test_cuda_kernels.py test_arguments.py test_gradients.py test_torch_integration.py test_random_calls.py ../modules/test_step.py

bench-op: $(READY)
	$(RUN) examples/benchmarks/recurrence.py

bench: $(READY)
	$(RUN) examples/benchmarks/throughput.py

# With an environment of your own, in which fairseq_srupp is built: python examples/benchmarks/gpu.py
gpu: $(READY)
	$(RUN) examples/benchmarks/gpu.py $(GPU_ARGS)

wheel: $(READY)
	rm -rf build/lib* build/bdist*
	$(if $(or $(CUDA_HOME),$(shell command -v nvcc)),FAIRSEQ_SRUPP_CUDA=$${FAIRSEQ_SRUPP_CUDA:-1}) \
	  $(PIP) wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .
	@ls dist/*.whl

# Another torch or fairseq than the one that was asked for last: set up again.
ASKED_FOR := torch=$(TORCH) fairseq=$(FAIRSEQ)
ifneq ($(TORCH)$(FAIRSEQ),)
ifneq ($(ASKED_FOR),$(shell cat $(VENV)/asked-for 2>/dev/null))
$(READY): again
endif
endif

$(VENV)/made:
	@set -e; python="$(PYTHON)"; suitable='import sys; sys.exit(sys.version_info < (3, 10))'; \
	stop() { echo "make setup: $$1" >&2; exit 1; }; \
	for candidate in $(PYTHONS); do \
	  if [ -z "$$python" ] && $$candidate -c "$$suitable" 2>/dev/null; then python=$$candidate; fi; \
	done; \
	"$${python:-false}" -c "$$suitable" 2>/dev/null || stop "needs Python 3.10 or later, as PYTHON="; \
	headers=$$("$$python" -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	[ -f "$$headers/Python.h" ] || stop "$$python has no C headers (Debian: apt-get install python3-dev)"; \
	command -v $${CXX:-c++} >/dev/null || stop "needs a C++ compiler (Debian: apt-get install g++)"; \
	echo "[1/4] $(VENV) with $$("$$python" --version)"; \
	"$$python" -m venv $(VENV); \
	$(PIP) install --quiet --upgrade pip; \
	touch $@

# Each step finds done what an interrupted run has done. torch is installed by itself: what needs it to be
# built comes later, without build isolation, which would download a second one. A torch with CUDA brings the NVRTC
# of its version, so the pin is for others.
$(READY): $(VENV)/made constraints.txt setup.py pyproject.toml $(shell find csrc -type f)
	@set -e; want="$(TORCH)"; \
	have=$$($(RUN) -c 'from importlib import metadata; print(metadata.version("torch"))' 2>/dev/null || true); \
	have=$${have%%+*}; \
	if [ -z "$$want" ]; then \
	  case "$$have" in 2.[1-9][0-9]*|[3-9].*) want=$$have;; \
	    *) want=$$(sed -n 's/^torch==//p' constraints.txt);; esac; \
	fi; \
	sed "s/^torch==.*/torch==$${want%%+*}/; /^nvidia-/d" constraints.txt > $(PINS); \
	if [ "$$have" = "$${want%%+*}" ]; then echo "[2/4] torch $$have is there"; \
	else echo "[2/4] torch $$want"; $(PIP) install -c $(PINS) "torch==$$want"; fi; \
	if ! $(RUN) -c 'from importlib.metadata import requires; "nvrtc" in str(requires("torch")) or exit(1)'; then \
	  grep ^nvidia- constraints.txt >> $(PINS); fi; \
	echo "[3/4] what is needed to build"; \
	$(PIP) install --quiet -c $(PINS) setuptools wheel ninja cython numpy; \
	fairseq="$(FAIRSEQ)"; extras=test; \
	if [ -n "$$fairseq" ]; then \
	  old=$$($(RUN) -c 'from fairseq_srupp.compat import family; print(*{one.name for one in family.distributions()})'); \
	  [ -z "$$old" ] || $(PIP) uninstall --quiet --yes $$old; \
	elif ! $(RUN) -c 'from fairseq_srupp.compat import family; family.require()' >/dev/null 2>&1; then \
	  fairseq="fairseq (4 more minutes where it has to be built)"; extras=test,fairseq; \
	fi; \
	echo "[4/4] fairseq_srupp, its kernels and what else it needs: $${fairseq:-a fairseq is there}"; \
	PYTHONWARNINGS=ignore $(PIP) install --quiet -c $(PINS) --no-build-isolation $(if $(FAIRSEQ),"$(FAIRSEQ)") -e ".[$$extras]"; \
	$(RUN) -m fairseq_srupp info; \
	echo "$(ASKED_FOR)" > $(VENV)/asked-for; \
	touch $@
