# `make` alone shows what there is.
PYTHON ?= python3
VENV := .venv
PEERS := .venv-bench
READY := $(VENV)/.ready
IN := . $(VENV)/bin/activate &&
QUICK := --configfile config/quick.yaml
INTERIM := python -m grokdistill interim $$(python -m grokdistill plan params.yaml)

.PHONY: help setup demo report record restore readings grid interim readme test test-faults bench lint format clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv from the lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(IN) pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(IN) pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

demo: $(READY) ## the whole DAG at quick scale, on the CPU, into results-quick/
	$(IN) OMP_NUM_THREADS=1 snakemake --cores 2 --resources gpu=2 $(QUICK)
	$(IN) snakemake --quiet all $(QUICK) --report results-quick/report.html
	@$(IN) python -m grokdistill show results-quick

report: $(READY) ## Snakemake's own report of the full-scale results
	$(IN) snakemake --quiet all --report results/report.html

record: $(READY) ## after `snakemake`: check what it made, and record it in DVC
	$(IN) python workflow/scripts/results.py record

restore: $(READY) ## after `git checkout` or in a fresh clone: this commit's results, from DVC's cache or its remote
	$(IN) python workflow/scripts/results.py restore

readings: $(READY) ## the ablation of what the paper leaves open (hours, where its records are not there), into docs/readings/
	$(IN) for study in config/readings*.yaml; do \
		OMP_NUM_THREADS=1 snakemake --cores 2 --resources gpu=2 --configfile $$study || exit; done
	$(IN) python workflow/scripts/readings.py

grid: $(READY) ## the paper's grid on a CPU, run by run in the order of docs/grid-order.md; break it off when you like
	$(IN) export OMP_NUM_THREADS=1; run="snakemake --cores 2 --resources gpu=2"; \
	while next=$$(python workflow/scripts/grid_order.py --next) || exit; test -n "$$next"; do \
		$$run -- $$next && $(INTERIM) || exit; done; $$run

interim: $(READY) ## tables, figures and verdicts of the runs that are there, also in a fresh clone: nothing is trained
	$(IN) $(INTERIM)

readme: $(READY) ## write job counts, what the demo made, and benchmarks into README and docs
	$(IN) python workflow/scripts/update_readme.py
	$(IN) python workflow/scripts/grid_order.py

test: $(READY) ## unit and workflow tests
	$(IN) OMP_NUM_THREADS=1 python -m pytest

test-faults: $(READY) ## every kind of fault, many times; writes docs/reliability.md
	$(IN) OMP_NUM_THREADS=1 GROKDISTILL_FAULTS=whole python -m pytest -n 0 tests/workflow/test_faults.py

bench: $(READY) $(PEERS)/.ready ## time training steps against other codes, a GPU if there is one, and planning
	PYTHONPATH=src $(PEERS)/bin/python benchmarks/step.py
	@$(IN) if python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then python benchmarks/gpu.py; fi
	$(IN) python benchmarks/planning.py

$(PEERS)/.ready: benchmarks/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

lint: $(READY) ## ruff, snakefmt and snakemake --lint
	$(IN) ruff check . && ruff format --check .
	$(IN) snakefmt --check Snakefile workflow
	$(IN) snakemake --lint

format: $(READY) ## put sources in their standard form
	$(IN) ruff check --fix --quiet . && ruff format . && snakefmt Snakefile workflow

clean: ## delete the demo's results (the store with them)
	rm -rf results-quick
