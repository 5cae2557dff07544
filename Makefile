# Two commands do all: `make demo` (a cut-out, without torch) and `make test` (everything). Each makes its own environment
# with uv where there is one and with pip otherwise. The rest serves development.
PYTHON ?= python3
DEMO_ENV := .venv-demo
DEV_ENV := .venv
DEMO := $(DEMO_ENV)/bin
DEV := $(DEV_ENV)/bin
PHOTOS := sam_edge/assets/photos

# $(call environment,FOLDER,WHAT): make the environment and install WHAT into it.
define environment
	@test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	@if command -v uv >/dev/null 2>&1 && [ -z "$$SAM_EDGE_NO_UV" ]; \
	then uv pip install --quiet --python $(1)/bin/python -c constraints.txt $(2); \
	else $(1)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt $(2); fi
	@touch $(1)/.installed
endef

.PHONY: demo test test-slow lint check dist pictures cards web browser clean

demo: $(DEMO_ENV)/.installed  ## segment a bundled photo with the runtime dependencies only; writes demo/
	@mkdir -p demo
	@$(DEMO)/sam-edge segment $(PHOTOS)/chelsea.jpg --point 240,100 --format cutout -o demo/chelsea-cutout.png
	@$(DEMO)/sam-edge segment $(PHOTOS)/astronaut.jpg --box 355,0,470,285 --box 280,340,512,512 -o demo/astronaut-overlay.png
	@echo "Look at demo/chelsea-cutout.png and demo/astronaut-overlay.png."

test: $(DEV_ENV)/.installed browser  ## all tests but the slow ones
	$(DEV)/python -m pytest

test-slow: $(DEV_ENV)/.installed  ## the rest: ViT-L and ViT-H against their golden values
	$(DEV)/python -m pytest -m slow

browser:  ## Chromium for tests/web: installed in CI only; elsewhere these tests are skipped without it
	@if [ -n "$$CI" ] && ! command -v chromium >/dev/null; \
	then (apt-get update -qq && apt-get install -y -qq chromium >/dev/null) \
	|| echo "CHROMIUM COULD NOT BE INSTALLED: the browser's tests will be skipped."; fi

web:  ## the page's TypeScript to sam_edge/web/static/ (committed, so only those who change it need Node)
	cd web && npm ci --ignore-scripts --no-audit --no-fund && npm run check && npm test && npm run build

lint: $(DEV_ENV)/.installed  ## ruff and mypy; .lint/ shows mypy the package as it is installed
	$(DEV)/ruff check .
	$(DEV)/ruff format --check .
	@rm -rf .lint && mkdir -p .lint/sam_edge
	@for entry in sam_edge/*; do ln -s ../../$$entry .lint/$$entry; done
	@for folder in kernels export benchmarks; do ln -s ../../$$folder .lint/sam_edge/$$folder; done
	MYPYPATH=.lint $(DEV)/mypy --strict -p sam_edge

check: lint test  ## what CI runs

pictures: $(DEV_ENV)/.installed  ## the pictures of README and MODEL_CARD, made by the tool
	@mkdir -p docs/pictures
	$(DEV)/sam-edge segment $(PHOTOS)/astronaut.jpg --box 355,0,470,285 --box 280,340,512,512 -o docs/pictures/boxes.png
	$(DEV)/sam-edge segment $(PHOTOS)/coffee.jpg --point 290,90 -o docs/pictures/click.png
	$(DEV)/sam-edge segment $(PHOTOS)/chelsea.jpg --point 240,100 --format cutout -o docs/pictures/cutout.png
	$(DEV)/sam-edge segment $(PHOTOS)/astronaut.jpg --everything -o docs/pictures/everything.png
	$(DEV)/sam-edge segment $(PHOTOS)/astronaut.jpg --point 180,420 -o docs/pictures/fails-part.png
	$(DEV)/sam-edge segment $(PHOTOS)/astronaut.jpg --point 400,60 -o docs/pictures/fails-thin.png

cards: $(DEV_ENV)/.installed  ## the figures of README, MODEL_CARD and nano's manifest, from benchmarks/results/
	$(DEV)/python -m sam_edge.benchmarks.cards

dist: $(DEV_ENV)/.installed  ## sdist, and the wheel from the sdist
	rm -rf dist build && $(DEV)/python -m build --outdir dist .

$(DEMO_ENV)/.installed: pyproject.toml constraints.txt
	$(call environment,$(DEMO_ENV),-e .)

$(DEV_ENV)/.installed: pyproject.toml constraints.txt
	$(call environment,$(DEV_ENV),"torch==2.13.0" -e ".[dev]")

clean:
	rm -rf $(DEMO_ENV) $(DEV_ENV) .lint build dist demo *.egg-info
