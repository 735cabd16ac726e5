# The two commands: `make serve` and `make test`. Each sets itself up.

PYTHON ?= python3.11
PORT ?= 8000
LABELS ?=
STUDIES ?=
HIPPOCAMPUS_ARGS ?=
BENCH_ARGS ?=
GPU_ARGS ?=
KILLS ?= 200
SIMULATE_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
SAMPLE := build/sample
LEFT_ATRIUM := build/packs/left_atrium.npz
HIPPOCAMPUS := build/packs/hippocampus.npz
HIPPOCAMPUS_DATA ?= ../shared/data/hippocampus
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup serve demo test test-real test-min test-viewers test-docker lint types check hippocampus score-ranking simulate bench gpu-left-atrium clean bench-load bench-scale bench-viewers ohif test-faults

help:
	@echo "make serve [STUDIES=folder] [PORT=8000] [LABELS=name1,name2]   start the server (sample cohort without STUDIES)"
	@echo "make test          the tests: ten minutes on two cores, no GPU needed"
	@echo "make demo          watch labels become a better model, on the sample cohort"
	@echo "make ohif          fetch the OHIF viewer (npm), served at /ohif/ for studies from a PACS"
	@echo "make setup         build .venv (the others call it)"
	@echo "make check         lint and types"
	@echo "make test-real     journeys with the full budget on the real scans, where they are present"
	@echo "make test-viewers  journeys with real viewers; installs what they need, see docs/viewers.md"
	@echo "make test-docker   the Dockerfile's steps in a clean Debian, started; as root, with debootstrap"
	@echo "make test-faults   kill and break a running project, count what is lost (an hour; KILLS=20: 10 minutes)"
	@echo "make test-min      floor 1 alone: needs only torch, monai and numpy"
	@echo "make hippocampus   UG-MCL beside supervised training on real scans (up to 90 minutes)"
	@echo "make score-ranking which score of a scan ranks true errors best, on the runs of make hippocampus"
	@echo "make simulate      how many labels each strategy needs, on real scans (hours; goes on after any stop)"
	@echo "make bench         speed and memory beside the published layout"
	@echo "make bench-load    50 readers at once against a started server, for 5 minutes"
	@echo "make bench-scale   start, next case, label, worklist at 100 to 100,000 cases, beside MONAI Label's datastore"
	@echo "make bench-viewers from Next to image and from Segment to overlay, beside MONAI Label's radiology app"
	@echo "make gpu-left-atrium  the left atrium at the paper's setting on a CUDA GPU, see docs/gpu.md"
	@echo "make clean         remove build/ and caches (not .venv)"

setup: $(STAMP)

# The stamp is written last, so an interrupted install starts over and a finished one is not repeated.
# torch comes first: sam2, which monailabel requires, is built from source and imports torch while it builds.
# SAM2_BUILD_CUDA=0: no compiler is needed.
$(STAMP): pyproject.toml constraints.txt buildtools/pth_backend.py apps/ugmcl_app/pydicom_alias.py
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Install Python 3.11 (Debian: apt install python3.11-venv), or name yours: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "$(PYTHON) is not Python 3.11, which monailabel 0.8.5 needs (3.12 lacks distutils). Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) has no venv module. On Debian: apt install python3.11-venv" >&2; exit 1; }
	@echo "Setting up $(VENV): 4 GB or more, a few minutes on the first run."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) setuptools torch numpy
	SAM2_BUILD_CUDA=0 $(PIP_INSTALL) --use-pep517 --no-build-isolation -e '.[dev,dicom,experiment,postgresql]'
	@touch $@

# Without STUDIES: the generated cohort, made once and kept with its labels and models until `make clean`.
serve: setup
ifeq ($(strip $(STUDIES)),)
	test -d $(SAMPLE)/studies || $(BIN)/ugmcl-assist sample-data --out $(SAMPLE)
	$(BIN)/ugmcl-assist serve --studies $(SAMPLE)/studies --port $(PORT)$(if $(LABELS), --labels '$(LABELS)')
else
	$(BIN)/ugmcl-assist serve --studies '$(STUDIES)' --port $(PORT)$(if $(LABELS), --labels '$(LABELS)')
endif

# Optional: without it /ohif/ is the stock page of MONAI Label. `make clean` keeps it.
ohif: setup
	$(BIN)/python buildtools/fetch_ohif.py .ohif

demo: setup
	$(BIN)/ugmcl-assist demo

# Two processes, each with whole files: a file's tests share their server. Two sets of threads share the cores, so
# one that waits must not spin.
test: setup
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -n 2 --dist loadfile -m 'not slow and not viewer'

# The same journeys with their full budget; they skip, with the reason, where the scans are absent.
test-real: setup
	UGMCL_FULL_BUDGET=1 $(BIN)/python -m pytest tests/journeys -m real

# SIGKILL at random instants, full disk, damaged files, a jumping clock, two servers. Report: build/test-faults.json.
test-faults: setup
	PYTHONPATH=apps/ugmcl_app $(BIN)/python -m tests.faults --kills $(KILLS)

test-min: setup
	$(BIN)/python -m pytest tests/ugmcl tests/test_architecture.py -m 'not slow'

# Each viewer's set-up says what it could not install; its journeys then skip, with the reason.
test-viewers: setup
	@mkdir -p build && rm -f build/test-viewers.json
	-PYTHON=$(PYTHON) tests/viewers/set_up_slicer.sh
	-PYTHON=$(BIN)/python tests/viewers/set_up_ohif.sh
	$(BIN)/python -m pytest -m viewer

test-docker: setup
	$(BIN)/python -m pytest tests/docker

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

check: lint types

hippocampus: setup
	$(BIN)/python -m server.experiments hippocampus $(HIPPOCAMPUS_ARGS)

# On the runs that `make hippocampus` left: which score of a scan ranks true errors best.
score-ranking: setup
	$(BIN)/python -m server.experiments score-ranking

# Labels revealed round by round; the foreground as one class. Two processes take a seed each, the third call does
# what is left and says whether all is done. Rows of the same arms with other settings are replaced.
SIMULATE = $(BIN)/ugmcl-assist simulate run --pack $(HIPPOCAMPUS) --work build/simulate --threads 1 \
	--steps 200 --first-steps 400 $(SIMULATE_ARGS)

simulate: setup
	@test -f $(HIPPOCAMPUS) -o -d '$(HIPPOCAMPUS_DATA)' || { echo "There are no scans in $(HIPPOCAMPUS_DATA). Name their folder: make simulate HIPPOCAMPUS_DATA=/path" >&2; exit 1; }
	@mkdir -p build/packs
	test -f $(HIPPOCAMPUS) || $(BIN)/ugmcl-assist experiment pack --data '$(HIPPOCAMPUS_DATA)' --out $(HIPPOCAMPUS) --merge --classes foreground
	-$(SIMULATE) & beside=$$!; $(SIMULATE); wait $$beside
	$(SIMULATE)
	$(BIN)/ugmcl-assist simulate evaluate --work build/simulate --out docs/active_learning --replace
	$(BIN)/ugmcl-assist simulate report --csv docs/active_learning

bench: setup
	$(BIN)/python -m ugmcl.bench $(BENCH_ARGS)

bench-load: setup
	$(BIN)/python -m server.benchmarks.load $(BENCH_ARGS)

bench-scale: setup
	$(BIN)/python -m server.benchmarks.scale $(BENCH_ARGS)

# The stock side has an environment of its own, build/stock-venv: MONAI 1.5.2 over our packages. The second half
# is OHIF on screen; it says so where a part of it is not installed (make test-viewers installs them).
bench-viewers: setup
	$(BIN)/python -m server.benchmarks.viewers $(BENCH_ARGS)
	PYTHONPATH=apps/ugmcl_app $(BIN)/python -m tests.viewers.ohif_times

# One seed of everything, the most wanted first. Every run is done once: the same command goes on after any stop.
# The last 16 cases of the pool validate; the data set's own test cases are not touched.
ON_GPU = $(BIN)/python -m ugmcl experiment --pack $(LEFT_ATRIUM) --work build/left_atrium --preset left-atrium \
	--hold-out 16 --ranking 8 --device cuda --precision bf16 $(GPU_ARGS)

gpu-left-atrium: setup
	@test -f $(LEFT_ATRIUM) || { echo "There is no $(LEFT_ATRIUM). Write it with: $(BIN)/ugmcl-assist experiment pack --data DATA --out $(LEFT_ATRIUM) --bits 8 (see docs/gpu.md)" >&2; exit 1; }
	$(ON_GPU) --methods ug_mcl_plus --labels 16,8
	$(ON_GPU) --methods ug_mcl --labels 16,8
	$(ON_GPU) --methods supervised,ua_mt,dtc,mean_teacher --labels 16

clean:
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
