# Everything a contributor or a new user runs. `make` alone prints the list.
# `demo` and `test` need only Python 3.10 to 3.12, git and make: they set up .venv by themselves.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

VENV := .venv
RUN := $(VENV)/bin/python
INSTALLED := $(VENV)/.installed

# The first interpreter that answers, has a supported version and can make environments.
# Another one:  make PYTHON=/path/to/python3.11 setup
USABLE := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
CANDIDATES := python3 python3.12 python3.11 python3.10 python
PYTHON ?= $(shell for each in $(CANDIDATES); do \
	if $$each -c '$(USABLE)' > /dev/null 2>&1; then echo $$each; break; fi; done)

# Small networks on few cores: more threads than cores only wait for each other.
CORES := $(shell getconf _NPROCESSORS_ONLN 2> /dev/null || echo 2)
export OMP_NUM_THREADS ?= $(CORES)
# Nothing here may depend on a hub being reachable.
OFFLINE := HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

# Most of a test is one small process after another, so test files run beside each other.
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n auto --maxprocesses=8 --dist=loadfile

# The annotations of installed packages are those for the version that installed them.
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
TYPED := $(wildcard configs diffusion datasets sample tools models/interface.py \
	models/registry.py train.py metrics.py process_data.py process_list.py semi_fixmatch.py)
SCRIPTS := $(wildcard sample/*.sh tools/slurm/*.sh tools/slurm/*.slurm .ci/run)

.PHONY: help setup format lint types test check smoke demo demo-stylegan-v demo-mostgan-v \
	demo-lvdm demo-lvdm-long demo-diagnosis demo-reconstruct pretrain clean

help:  ## print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 20

demo: $(INSTALLED)  ## simulate clips, train, sample and write runs/demo/report.html; no GPU needed
	$(OFFLINE) $(RUN) -m tools.demo

demo-stylegan-v: $(INSTALLED)  ## the same with StyleGAN-V: runs/demo-stylegan_v/report.html
	$(OFFLINE) $(RUN) -m tools.demo --config configs/demo/stylegan_v.yaml

demo-mostgan-v: $(INSTALLED)  ## the same with MoStGAN-V: runs/demo-mostgan_v/report.html
	$(OFFLINE) $(RUN) -m tools.demo --config configs/demo/mostgan_v.yaml

demo-lvdm: $(INSTALLED)  ## the same with LVDM, both stages and longer videos: runs/demo-lvdm/report.html
	$(OFFLINE) $(RUN) -m tools.demo --config configs/demo/lvdm.yaml

demo-lvdm-long: $(INSTALLED)  ## the same with LVDM's networks for long videos
	$(OFFLINE) $(RUN) -m tools.demo --config configs/demo/lvdm_long.yaml

demo-diagnosis: $(INSTALLED)  ## does generated video help diagnosis, on simulated clips: runs/diagnosis/report.html
	$(OFFLINE) $(RUN) -m tools.diagnosis_study --output runs/diagnosis

demo-reconstruct: $(INSTALLED)  ## a 3-D scene of a simulated clip: runs/reconstruct/report.html
	$(OFFLINE) $(RUN) -m tools.reconstruct --config configs/downstream/reconstruct_demo.yaml \
		--output runs/reconstruct

test: lint types  ## format, lint, types and the whole suite
	$(OFFLINE) $(PYTEST)

check: lint types  ## the same without the slow tests, to run before every commit
	$(OFFLINE) $(PYTEST) -m "not slow"

smoke: $(INSTALLED)  ## run the README's commands as they are printed
	$(OFFLINE) $(RUN) -m pytest tests/test_readme.py

# Every step goes on where it was stopped, or finds that it is done.
pretrain: $(INSTALLED)  ## make the demo's shipped weights anew, about 1.5 hours on two cores
	$(RUN) -m tools.simulate --folder data/pretrain/clips --clips 200 --frames 32 --size 64 \
		--styles col --seed 10 --no-truth
	$(RUN) process_data.py -s data/pretrain/clips -t data/pretrain/frames --target_size 64 \
		--format png
	$(OFFLINE) $(RUN) train.py --config configs/demo/autoencoder.yaml
	$(RUN) -m tools.export --checkpoint runs/pretrain/autoencoder \
		--output configs/demo/weights/autoencoder.safetensors --dtype float16
	$(OFFLINE) $(RUN) train.py --config configs/demo/pretrain_images.yaml
	$(RUN) -m tools.export --checkpoint runs/pretrain/images \
		--output runs/pretrain/images.safetensors
	$(OFFLINE) $(RUN) train.py --config configs/demo/pretrain.yaml
	$(RUN) -m tools.export --checkpoint runs/pretrain/endora \
		--output runs/pretrain/clips.safetensors
	$(OFFLINE) $(RUN) train.py --config configs/demo/pretrain_mixed.yaml
	$(RUN) -m tools.export --checkpoint runs/pretrain/mixed \
		--output configs/demo/weights/endora.safetensors --dtype float16
	$(OFFLINE) $(RUN) train.py --config configs/demo/decoder.yaml
	$(RUN) -m tools.export --checkpoint runs/pretrain/decoder \
		--output configs/demo/weights/autoencoder.safetensors --dtype float16

setup: $(INSTALLED)  ## make .venv and install the requirements

format: $(INSTALLED)  ## rewrite the code in the project's layout
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

lint: $(INSTALLED)  ## check layout, code and shell scripts
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	for script in $(SCRIPTS); do bash -n $$script; done
	if command -v shellcheck > /dev/null; then shellcheck -x $(SCRIPTS); fi

types: $(INSTALLED)  ## check type annotations
	$(RUN) -m mypy --python-version $$($(RUN) -c '$(VERSION)') $(TYPED)

clean:  ## delete the environment, caches and the demo's results; other runs and data stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache runs/demo runs/demo-* runs/diagnosis runs/reconstruct data/demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is removed first and written last: an installation that was interrupted has none and
# starts again from an empty environment; changed requirements only install what is new.
$(INSTALLED): requirements.txt requirements-dev.txt
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(USABLE)'; then \
		echo "error: no Python 3.10, 3.11 or 3.12 with the venv module found (tried" \
		"$(or $(PYTHON),$(CANDIDATES))); install one, on Debian or Ubuntu with its python3-venv" \
		"package, or name it: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; fi
	@if [ -f $@ ]; then rm $@; else $(PYTHON) -m venv --clear $(VENV); fi
	@echo "installing into $(VENV): several GB with PyTorch, some minutes the first time"
	$(RUN) -m pip install --disable-pip-version-check --no-input -r requirements-dev.txt
	@$(RUN) -c 'import torch, torchvision; torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.5)' || \
		{ echo "error: torch and torchvision in $(VENV) do not belong together; install the" \
		"ordinary builds of one release (not the CPU-only ones) and run make again" >&2; exit 2; }
	@touch $@
