# joulehouse: `make` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# --- knobs of `make run`
BACKEND  ?= pytorch
MODEL    ?= builtin:tiny-llama
CYCLES   ?= 3
LAUNCHER ?= auto
RESULTS  ?= results
DB       ?= warehouse.duckdb
# Name that groups the cycles; a new one each time if empty.
STUDY    ?=
# Further `runner run` options, as in ARGS="--set batch_size=4 --memory 8g".
ARGS     ?=

export BACKEND CYCLES LAUNCHER RESULTS DB

# --- knobs of the set-up
PYTHON     ?= python3
BASE_IMAGE ?=
# Where `make push` pushes to, such as registry.example.org/team.
REGISTRY   ?=

BACKENDS := $(notdir $(patsubst %/Dockerfile,%,$(wildcard images/*/Dockerfile)))
BIN      := .venv/bin
REVISION := $(shell git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)
PIP      := $(BIN)/python -m pip install -q -c constraints.txt -c images/constraints.txt
PINS     := pyproject.toml constraints.txt images/constraints.txt $(wildcard */requirements.txt images/*/requirements.txt)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z%-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22
	@echo "backends here: $(BACKENDS)"

.PHONY: run
run: .venv/.host ## measure: BACKEND= MODEL= CYCLES= LAUNCHER=auto|docker|local RESULTS=dir DB=file ARGS=
	@for knob in BACKEND CYCLES LAUNCHER RESULTS DB; do
	    [ -n "$${!knob}" ] || { echo "$$knob= is empty. Leave it out for its default." >&2; exit 2; }
	done
	launcher=$(LAUNCHER)
	if [ "$$launcher" = auto ]; then
	    if answer=$$(docker version --format '{{.Server.Version}}' 2>&1); then
	        launcher=docker; echo "launcher: docker, because an engine answers (version $$answer)"
	    else
	        launcher=local; echo "launcher: local processes, because no Docker engine answers ($${answer##*$$'\n'})"
	    fi
	fi
	case " $(ARGS) " in *" --study"*|*" --output"*|*" --launcher"*|*" --dry-run"*)
	    echo "ARGS may not hold --study, --output, --launcher or --dry-run; there are knobs for them." >&2; exit 2 ;;
	esac
	study=$(or $(STUDY),run-$$(date -u +%Y%m%d-%H%M%S)-$$$$)
	runner() { $(BIN)/runner run --backend "$(BACKEND)" --model "$(MODEL)" --cycles "$(CYCLES)" --launcher "$$launcher" \
	    --output "$(RESULTS)" --study $$study "$$@" $(ARGS); }
	# Wrong knobs are told before minutes of set-up; 125 only says that the set-up is still to come.
	code=0; said=$$(runner --dry-run 2>&1) || code=$$?
	case $$code in 0|125) ;; *) echo "$$said" >&2; exit $$code ;; esac
	if [ $$launcher = docker ]; then $(MAKE) image; else $(MAKE) install-$(BACKEND); fi
	code=0; runner || code=$$?
	$(BIN)/warehouse ingest --db "$(DB)" "$(RESULTS)"
	# After a failure to start there may be nothing of this study, and the reason stands above.
	if [ $$code = 0 ]; then $(BIN)/warehouse campaign --db "$(DB)" --study $$study
	else $(BIN)/warehouse campaign --db "$(DB)" --study $$study 2>/dev/null || true; fi
	echo "results:   $(RESULTS)/"
	echo "warehouse: $(DB)   (try: $(BIN)/warehouse sql --db '$(DB)' \"SELECT study, backend, cycle, output_tokens_per_second FROM experiments\")"
	echo "report:    $(BIN)/warehouse report --db '$(DB)' --study $$study -o report.html"
	exit $$code

.PHONY: image
image: ## build the image of BACKEND (BASE_IMAGE= to build on another base)
	@if [ ! -f images/$(BACKEND)/Dockerfile ]; then
	    echo "there is no image for BACKEND=$(BACKEND); there are: $(BACKENDS)" >&2; exit 2
	fi
	if ! answer=$$(docker version 2>&1); then
	    echo "no Docker engine answers ($${answer##*$$'\n'}). Start it, or use LAUNCHER=local." >&2; exit 125
	fi
	log=$$(mktemp); trap 'rm -f $$log' EXIT
	echo "image: joulehouse-$(BACKEND) (the first build takes minutes, later ones a second)"
	docker build $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) --build-arg REVISION=$(REVISION) \
	    -t joulehouse-$(BACKEND) -f images/$(BACKEND)/Dockerfile images 2>&1 | tee $$log \
	    | awk '/^Step/ {step = $$0} /Running in/ && step ~ /RUN/ || /^#[0-9]+ \[.*RUN/ {print "  " substr(/^#/ ? $$0 : step, 1, 100); fflush()}' \
	    || { tail -n 12 $$log >&2; echo "the image could not be built; its last lines stand above." \
	        "BASE_IMAGE= names another base, LAUNCHER=local needs no image." >&2; exit 1; }

.PHONY: images
images: ## build every image
	@for backend in $(BACKENDS); do $(MAKE) image BACKEND=$$backend; done

.PHONY: push
push: ## push every image to REGISTRY= (registry/team), and print the lines for kubernetes.images
	@[ -n "$(REGISTRY)" ] || { echo "REGISTRY= is empty: where to, such as REGISTRY=registry.example.org/team" >&2; exit 2; }
	for backend in $(BACKENDS); do
	    name=$(REGISTRY)/joulehouse-$$backend
	    docker image inspect joulehouse-$$backend >/dev/null 2>&1 \
	        || { echo "there is no image joulehouse-$$backend: make image BACKEND=$$backend" >&2; exit 2; }
	    docker tag joulehouse-$$backend $$name:$(REVISION)
	    docker push -q $$name:$(REVISION) >/dev/null || { echo "$$name could not be pushed: docker login $(REGISTRY)" >&2; exit 1; }
	    digest=$$(docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' joulehouse-$$backend | grep -F "$$name@" | tail -n 1)
	    echo "  $$backend: $$digest"
	done

.PHONY: install
install: .venv/.host .venv/.dev ## make .venv with both commands and the developers' tools

install-%: .venv/.host ## what BACKEND needs to run in local processes (install-pytorch: torch, transformers)
	@if [ ! -f images/$*/requirements.txt ]; then
	    echo "there is no backend '$*' here; there are: $(BACKENDS)" >&2; exit 2
	fi
	if [ $* = vllm ] || [ $* = trt ]; then
	    echo "$* runs in its image only, because its packages clash with those here, or come with it: use LAUNCHER=docker" >&2; exit 2
	fi
	$(MAKE) -s .venv/.backend-$*

.PHONY: test
test: .venv/.dev .venv/.backend-pytorch ## everything this machine can test; REQUIRE_DOCKER=1 fails without Docker, REQUIRE_BROWSER=1 without Chromium
	@$(BIN)/pytest -n 2 --dist loadgroup $(ARGS)

.PHONY: test-gpu
test-gpu: $(if $(GPU_PYTHON),,.venv/.host .venv/.backend-pytorch) ## acceptance on a real GPU, no Docker: MODEL= ARGS= GPU_PYTHON=an interpreter to take as it is
	@python="$(or $(GPU_PYTHON),$(BIN)/python)"
	if ! "$$python" -c 'import filelock, numpy, pyarrow, pydantic, pynvml, rich, scipy'; then
	    echo "$$python needs: pip install filelock numpy pyarrow pydantic nvidia-ml-py rich scipy (docs/gpu-acceptance.md)" >&2; exit 2
	fi
	"$$python" -m tests.gpu_acceptance --model "$(MODEL)" $(ARGS)

.PHONY: test-spark
test-spark: .venv/.dev ## Spark reads the folder that `warehouse export` writes; needs Java 17 or newer
	@command -v java >/dev/null || { echo "Spark needs Java: install openjdk-17-jre-headless, or newer" >&2; exit 2; }
	$(PIP) -r tests/spark/requirements.txt
	$(BIN)/pytest -n 0 tests/spark $(ARGS)

.PHONY: test-faults
test-faults: .venv/.dev ## kill -9 at 25 random moments of a study; needs root, Docker, and .ci/engine's simulated GPUs
	@$(BIN)/python -m tests.faults $(ARGS)

.PHONY: lint
lint: .venv/.dev ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports | grep -E 'KEPT|BROKEN|->|Contracts:'

.PHONY: check
check: lint docs test ## everything CI runs

.PHONY: format
format: .venv/.dev ## put the source into its form
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

.PHONY: docs
docs: .venv/.dev ## the documentation as a site, .cache/docs/index.html; a dead link is an error
	@$(BIN)/python -m sphinx -q -a -E -n -W --keep-going -b html -d .cache/doctrees docs .cache/docs $(ARGS)
	echo "documentation: .cache/docs/index.html"

.PHONY: test-quick-start
test-quick-start: .venv/.dev ## docs/quick-start.md, word by word, in a container with git, make and python3 only
	@$(BIN)/python -m tests.quick_start $(ARGS)

.PHONY: bench
bench: .venv/.dev ## measure joulehouse itself; prints a table
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: report-picture
report-picture: .venv/.dev ## draw docs/images/ anew; needs Chromium
	@$(BIN)/python -m tests.warehouse.report.picture

.PHONY: lock
lock: ## resolve all versions anew into both constraints files
	@scratch=$$(mktemp -d); trap 'rm -rf $$scratch' EXIT
	$(PYTHON) -m venv $$scratch/images && $(PYTHON) -m venv $$scratch/all
	$$scratch/images/bin/pip install -q -r images/pytorch/requirements.txt $(foreach b,$(filter-out vllm,$(BACKENDS)),-r images/$(b)/requirements.txt)
	$$scratch/images/bin/pip freeze | sed 's/+[a-z0-9.]*$$//' > images/constraints.txt
	$$scratch/all/bin/pip install -q -c images/constraints.txt -r images/pytorch/requirements.txt
	$$scratch/all/bin/pip install -q -c images/constraints.txt '.[host,dev,docs]'
	$$scratch/all/bin/pip freeze --exclude joulehouse | sed 's/+[a-z0-9.]*$$//' | grep -vxFf images/constraints.txt > constraints.txt

.PHONY: clean
clean: ## remove .venv and caches; results and warehouses stay
	@rm -rf .venv .cache .hypothesis build ./*.egg-info

.ONESHELL:

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; echo "python3 needs venv (Debian: apt install python3-venv)" >&2; exit 2; }

.venv/.host: .venv/bin/python $(PINS)
	@echo "set-up: both commands into .venv"
	$(PIP) -e '.[host]' && touch $@

.venv/.dev: .venv/.host
	@echo "set-up: developers' tools into .venv"
	$(PIP) -e '.[host,dev,docs]' && touch $@

.venv/.backend-%: .venv/.host
	@echo "set-up: backend $* into .venv"
	$(PIP) -r images/$*/requirements.txt && touch $@
