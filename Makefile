# Two commands for a newcomer: `make demo` and `make test`. Each installs what it needs into .venv.

PYTHON ?= python3
BIN := .venv/bin
DEMO := recipes/digits/digits.py recipes/digits/digits_720_unscaled.py recipes/digits/digits_720.py recipes/digits/digits_720_lamb.py

SMOKE := tests/unit/test_plan.py::test_goyals_plans_from_8_to_256_ranks \
	tests/distributed/test_batch_growth.py::test_a_loop_written_by_hand_gives_the_same_losses \
	"tests/distributed/test_sharded_deepspeed.py::test_same_weights_as_one_process[lars-acc1-1]" \
	"tests/distributed/test_equality.py::test_resuming_is_bit_identical_on_the_same_world[deepspeed]"

.PHONY: help install colossalai demo scaling-demo smoke test test-slow test-colossalai mutants lint bench bench-check wheels clean

help:
	@echo "make install     create .venv with the pinned packages of constraints.txt (5.5 GB, about 2 minutes)"
	@echo "make demo        show what a large batch costs and what repairs it (about 4 minutes)"
	@echo "make smoke       one plan, one loop written by hand, one ZeRO-1 step of LARS, one resume (under a minute)"
	@echo "make test        run the tests"
	@echo "make test-slow   run the tests that take longer, and build and install the wheel"
	@echo "make mutants     change every published value of the recipes by 10 %: the tests notice each change"
	@echo "make lint        run ruff and mypy"
	@echo "make scaling-demo  measure and predict scaling on four hosts made of network namespaces (needs root)"
	@echo "make bench       measure speed against the peers; adds rows to results/ and to docs (under 30 minutes)"
	@echo "make bench-check do the same against the last rows; writes nothing"
	@echo "make colossalai  create .venv-colossalai: ColossalAI on top of .venv (0.3 GB, about a minute)"
	@echo "make test-colossalai  run the tests of engine=colossalai in that environment"
	@echo "make wheels      collect what a GPU machine without a package index lacks for bench/gpu.py (31 MB)"
	@echo "make clean       remove the caches of pytest, mypy and ruff; runs/ and what was trained there stay"

install: .venv/.installed

.venv/.installed: pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "lbtrain needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

colossalai: .venv-colossalai/.installed

# ColossalAI's own pins (torch <= 2.5.1, transformers 4.51) would take .venv apart; beside these few packages it runs on what .venv has.
# `colossalai run` starts whatever `torchrun` comes first on PATH, so the layer has one of its own.
.venv-colossalai/.installed: .venv/.installed constraints-colossalai.txt
	$(BIN)/python -m venv --without-pip --clear .venv-colossalai
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' > $$(echo .venv-colossalai/lib/python3*/site-packages)/main_environment.pth
	$(BIN)/python -m pip --python .venv-colossalai/bin/python install --quiet --no-deps --requirement constraints-colossalai.txt
	printf '#!%s\nfrom torch.distributed.run import main\nmain()\n' "$$PWD/.venv-colossalai/bin/python" > .venv-colossalai/bin/torchrun
	chmod +x .venv-colossalai/bin/torchrun
	@touch $@

demo: install
	$(BIN)/python -m tools.study $(DEMO) --seeds 5 --launcher deepspeed --ranks 2 --out runs/demo --title "What a large batch costs, and what repairs it"

# Four hosts, made of network namespaces, behind links of 500 Mbit/s: measured, fitted, predicted to 256 GPUs. Root; openssh-server, pdsh, iproute2.
scaling-demo: install
	PYTHONPATH=. $(BIN)/python -m lab.hosts 4 --rate 500mbit -- $(BIN)/python -m tools.scaling_report measure --hostfile {hostfile} --gpus 1,2,4 --steps 10 --warmup 2 --collectives --resume --out runs/scaling-demo lab/sleeping.py
	$(BIN)/python -m tools.scaling_report predict --run runs/scaling-demo/report.json --gpus 1,2,4,8,16,32,64,128,256 --out runs/scaling-demo/predicted.json
	$(BIN)/python -m tools.scaling_report render runs/scaling-demo/report.json runs/scaling-demo/predicted.json --out runs/scaling-demo/page
	@echo "the page: runs/scaling-demo/page/scaling.html"

smoke: install
	$(BIN)/python -m pytest -x $(SMOKE)

# Two at a time, of one thread each: two threads each on two cores wait for each other, and take three times the
# processor time. A file stays on one worker, so that its fixtures and its ranks start once.
test test-slow: export OMP_NUM_THREADS = 1

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow -n 2

test-colossalai: colossalai
	.venv-colossalai/bin/python -m pytest -m "slow or not slow" tests/colossalai

mutants: install
	$(BIN)/python -m tests.recipes.mutants

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m bench

bench-check: install
	$(BIN)/python -m bench --check

# What a machine with torch, torchvision and scikit-learn, but without a package index, lacks; bench/gpu.py says how it
# is installed there. GPU_PYTHON is the Python there: one wheel of another one, and pip installs none, which the last line tries.
GPU_PYTHON ?= 3.12
WHEELS := timm accelerate deepspeed omegaconf antlr4-python3-runtime rich markdown-it-py mdurl Pygments hjson py-cpuinfo pydantic annotated-types \
	typing-inspection einops tensorboard absl-py Markdown Werkzeug
COMPILED_WHEELS := msgpack ninja pydantic_core tensorboard-data-server grpcio protobuf simplejpeg pycocotools psutil
wheels: install
	rm -rf wheels
	$(BIN)/python -m pip wheel --quiet --no-deps --constraint constraints.txt --wheel-dir wheels $(WHEELS)
	$(BIN)/python -m pip download --quiet --no-deps --constraint constraints.txt --dest wheels --only-binary :all: --python-version $(GPU_PYTHON) $(COMPILED_WHEELS)
	$(BIN)/python -m pip install --quiet --dry-run --no-index --no-deps --only-binary :all: --python-version $(GPU_PYTHON) --target wheels wheels/*.whl

clean:
	rm -rf .pytest_cache .mypy_cache .ruff_cache
