# Berth: `make` lists what there is to do.

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
TOOLS     := $(CURDIR)/bin/tools
BUILDKIT  := $(shell awk '$$1 == "github.com/moby/buildkit" {print $$2}' go.mod)
FUZZTIME  ?= 10s
SOAKTIME  ?= 10m
TESTFLAGS ?=

GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=$(VERSION) -X github.com/moby/buildkit/version.Version=$(BUILDKIT)"
GO_TEST  := $(TOOLS)/gotestsum --format pkgname-and-test-fails --format-hide-empty-pkg --

export BERTH_TOOLS := $(TOOLS)
test soak: export BERTH_BIN := $(CURDIR)/bin/berth
test soak: export BERTH_RUNNER_BIN := $(CURDIR)/bin/berth-runner

.DEFAULT_GOAL := help
.PHONY: help build run tools test lint fuzz bench soak clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

build: ## build bin/berth, bin/berth-runner and bin/berth-edge
	$(GO_BUILD) -o bin/ ./cmd/...

run: build ## start registry and runner on this host
	hack/run.sh

tools: ## install what the tests and the linter need
	hack/install-tools.sh

# What has daemons, containers and networks on all processors is tested one package
# at a time, the rest, which waits much of its time, two at a time.
test: tools lint build ## check the code, run all tests
	$(GO_TEST) -count=1 -p 2 -timeout 25m $(TESTFLAGS) $$(go list ./... | grep -v -E '/(e2e|runner|deploy)(/|$$)')
	$(GO_TEST) -count=1 -p 1 -timeout 25m $(TESTFLAGS) $$(go list ./... | grep -E '/(e2e|runner|deploy)(/|$$)')

lint: ## check the code
	hack/install-tools.sh golangci-lint
	$(TOOLS)/golangci-lint run

fuzz: ## run each fuzz test for FUZZTIME
	hack/fuzz.sh $(FUZZTIME)

bench: ## compare with other registries and engines, write the table of the README
	go run ./bench -readme README.md

soak: tools build ## crash the servers, and collect garbage, at random for SOAKTIME each
	go test -count=1 -timeout 0 -v -run '^Test(Kill|PowerCut|CollectKilled|ScaleKilled|DeployUnderLoad)$$' ./e2e/... -soak $(SOAKTIME)
	go test -count=1 -timeout 0 -race -run '^TestModel$$' ./registry -soak $(SOAKTIME)

clean: ## remove what was built
	rm -rf bin
