# Two commands do everything: `make run` and `make test`. Both set up what they need.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python

.PHONY: run test test-slow lint lab docs docs-results docs-serve bench lock readme clean setup setup-dev setup-peers
.DEFAULT_GOAL := run

run: setup  ## Run the main job: real flights, from raw tables to a released endpoint
	$(BIN)/mlops-kit run train
	$(BIN)/mlops-kit run deploy
	$(BIN)/mlops-kit run observe

test: setup-dev  ## Every test that takes seconds: notebooks and tests/
	$(BIN)/nbdev-test --n-workers 2
	$(BIN)/pytest -n 2 -m "not slow"

test-slow: setup-dev setup-peers  ## What takes minutes: slow cells, fresh clones, long kill loops
	$(BIN)/nbdev-test --n-workers 2 --flags slow
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m slow

lint: setup-dev  ## Style, types, and whether notebooks, package and README agree
	$(BIN)/ruff check nbs tests
	$(BIN)/ruff format --check nbs tests
	$(BIN)/mypy
	$(BIN)/python tests/agree.py

lab: setup  ## JupyterLab on a start page; more words for it: make lab ARGS="--port 8889"
	$(BIN)/mlops-kit lab $(ARGS)

docs: setup-dev  ## The documentation site, from the notebooks to site/
	$(BIN)/mlops-kit docs

docs-results: setup-dev  ## The same with the results of every notebook, which takes as long as their tests
	$(BIN)/mlops-kit docs --run

docs-serve: docs  ## Show the site on this machine: http://127.0.0.1:8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory site 8000

bench: setup-dev setup-peers  ## Speed against peers, as ratios in one run
	$(BIN)/python tests/bench.py

readme: setup-dev  ## README.md from nbs/index.ipynb
	$(BIN)/jupyter nbconvert --to markdown --log-level WARN --output-dir . --output README nbs/index.ipynb

lock: .venv/uv  ## Renew the locks; `dev` holds all extras, `default` is the part that runs, `serving` what a bundle needs, `peers` other servers
	$(BIN)/uv pip compile pyproject.toml --all-extras $(LOCK) -o environments/dev/requirements.txt
	$(BIN)/uv pip compile pyproject.toml --extra flights $(LOCK) -c environments/dev/requirements.txt -o environments/default/requirements.txt
	$(BIN)/uv pip compile --group pyproject.toml:serving $(LOCK) -c environments/dev/requirements.txt -o environments/serving/requirements.txt
	$(BIN)/uv pip compile --group pyproject.toml:peers $(LOCK) -o environments/peers/requirements.txt
LOCK := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url

clean:  ## Stop the endpoint, and remove everything that can be made again
	-@test ! -x $(BIN)/mlops-kit || $(BIN)/mlops-kit endpoint stop --all
	rm -rf .venv runs scratch start.md compiled mlflow.db mlruns _proc site build dist *.egg-info .*_cache

setup: .venv/default
setup-dev: .venv/dev
setup-peers: .venv/peers/done

.venv/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) or sys.version_info >= (3, 14))' || { echo "mlops_kit needs Python 3.11, 3.12 or 3.13; $(PYTHON) is another. Type: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check 'uv>=0.9'
	@touch $@

.venv/default: .venv/uv environments/default/requirements.txt pyproject.toml
	$(UV) --require-hashes -r environments/default/requirements.txt
	$(UV) --no-deps --editable .
	@touch $@

.venv/dev: .venv/default environments/dev/requirements.txt
	$(UV) --require-hashes -r environments/dev/requirements.txt
	@touch $@

.venv/peers/done: .venv/uv environments/peers/requirements.txt
	$(BIN)/uv venv --quiet --allow-existing .venv/peers
	$(BIN)/uv pip install --quiet --python .venv/peers/bin/python --require-hashes -r environments/peers/requirements.txt
	$(BIN)/uv pip install --quiet --python .venv/peers/bin/python --no-deps --editable .
	@touch $@
