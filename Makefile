# make demo   shows the main job on this machine, with nothing to configure
# make test   installs what is missing and runs every test there is
#
# The rest are parts of `make test`, and tools for working on it.

GO      ?= go
FUZZTIME ?= 4s
BIN     := bin
LINT    := $(BIN)/golangci-lint
DEX     := $(BIN)/dex
# The tests listen on loopback only, and end what they start.
TESTFLAGS ?= -race -count=1 -timeout 20m

.PHONY: help demo test setup vet lint unit flows flips cover noskips xcaddy fuzz e2e bench bench-docs benchgo fmt build clean

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | head -4

demo:
	@$(GO) run ./test/demo

test: setup vet lint noskips unit flows flips cover xcaddy fuzz e2e
	@echo "all tests passed"

# setup installs what the tests need and the machine has not: as root on
# Debian by itself, elsewhere it says what to install.
setup:
	@./test/setup.sh

vet:
	$(GO) vet ./...
	cd test/e2e && $(GO) vet ./...

$(LINT): test/tools/go.mod test/tools/go.sum
	cd test/tools && $(GO) build -o ../../$(LINT) github.com/golangci/golangci-lint/v2/cmd/golangci-lint

lint: $(LINT)
	$(LINT) run ./...
	cd test/e2e && ../../$(LINT) run -c ../../.golangci.yml ./...
	@diff=$$($(LINT) fmt --diff ./...); if [ -n "$$diff" ]; then echo "$$diff"; echo "run: make fmt"; exit 1; fi

# A test that does not run proves nothing.
noskips:
	@if grep -rnE '\b[tbf]\.Skip(f|Now)?\(' --include='*_test.go' .; then echo "tests must run, not skip"; exit 1; fi

unit:
	$(GO) test $(TESTFLAGS) $$($(GO) list ./... | grep -v '/test/flows$$')

# The journeys: under the race detector, with sessions in cookies and those that
# are about stores in each; and once more, without it, with all sessions in each
# other store that needs nothing to run. All at once, for they mostly wait.
# `make flows FLOWFLAGS='-test.run Logout'` walks some.
FLOWFLAGS ?=
flows:
	@mkdir -p $(BIN)
	@$(GO) test -race -c -o $(BIN)/flows-cookie.test ./test/flows
	@$(GO) test -c -o $(BIN)/flows-memory.test ./test/flows
	@cp $(BIN)/flows-memory.test $(BIN)/flows-storage.test
	@cd test/flows && bin=$(CURDIR)/$(BIN) && { \
		walk() { PKCE_AUTH_TEST_STORE=$$2 $$bin/flows-$$1.test -test.timeout 20m $(FLOWFLAGS) >$$bin/flows-$$1.log 2>&1; }; \
		walk cookie "" & cookie=$$!; \
		walk memory memory & memory=$$!; \
		walk storage storage & storage=$$!; \
		failed=; \
		for store in cookie:$$cookie memory:$$memory storage:$$storage; do \
			if wait $${store#*:}; then echo "journeys with sessions in $${store%:*}: ok"; \
			else echo "journeys with sessions in $${store%:*}: FAIL"; cat $$bin/flows-$${store%:*}.log; failed=1; fi; \
		done; \
		test -z "$$failed"; }

# Takes the checks of ID tokens and logout tokens out, one at a time: a test
# must notice each.
flips:
	@GO="$(GO)" $(GO) run ./test/flips

# The packages that decide: at least 95 % of their statements are run.
cover:
	@GO="$(GO)" ./test/cover.sh

# Builds Caddy with this module as xcaddy.md says, and looks whether it is in.
xcaddy:
	@GO="$(GO)" ./test/xcaddy.sh

# Every fuzz target for a short while; `make fuzz FUZZTIME=30m` for a long one.
# Go sometimes takes the end of that while itself for a failure ("context
# deadline exceeded", without a failing input): then once more.
#
# A package is compiled once for all its targets: all of Caddy is instrumented
# with it, and linking that takes longer than the targets run.
fuzz:
	@mkdir -p $(BIN)
	@for dir in $$(grep -rlE '^func Fuzz' --include='*_test.go' --exclude-dir=e2e . | xargs -n1 dirname | sort -u); do \
		$(GO) test -c -fuzz . -o $(BIN)/fuzz.test $$dir || exit 1; \
		known=$$($(GO) env GOCACHE)/fuzz/$$($(GO) list $$dir); \
		targets=$$(cd $$dir && "$(CURDIR)/$(BIN)/fuzz.test" -test.list '^Fuzz') || exit 1; \
		for target in $$targets; do \
			echo "fuzzing $$target for $(FUZZTIME)"; \
			fuzz() { (cd $$dir && "$(CURDIR)/$(BIN)/fuzz.test" -test.run '^$$' -test.fuzz "^$$target\$$" -test.fuzztime $(FUZZTIME) -test.fuzzcachedir "$$known") >$(BIN)/fuzz.log 2>&1; }; \
			fuzz || { grep -q 'context deadline exceeded' $(BIN)/fuzz.log && ! grep -q 'Failing input' $(BIN)/fuzz.log && fuzz; } || { cat $(BIN)/fuzz.log; exit 1; }; \
		done; \
	done

# Without cgo it has no SQLite; that of the tests keeps all it knows in memory.
$(DEX): test/tools/dex/go.mod test/tools/dex/go.sum
	cd test/tools/dex && CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o ../../../$(DEX) github.com/dexidp/dex/cmd/dex

e2e: $(DEX)
	cd test/e2e/oidc-provider && npm ci --no-audit --no-fund --loglevel=error
	cd test/e2e && $(GO) test -count=1 -timeout 15m ./...

# What a request costs, side by side with a Caddy that has no pkce_auth: see
# docs/performance.md. `make bench BENCHFLAGS=-quick` looks at everything briefly.
BENCHFLAGS ?=
bench:
	@GO="$(GO)" $(GO) run ./test/bench -out $(BIN)/bench $(BENCHFLAGS)

# The same, and the results go into the docs.
bench-docs:
	@GO="$(GO)" $(GO) run ./test/bench -out $(BIN)/bench -docs docs $(BENCHFLAGS)

# Parts of the hot path by themselves.
benchgo:
	$(GO) test -run '^$$' -bench . -benchmem ./caddyauth/...

fmt: $(LINT)
	$(LINT) fmt ./...
	cd test/e2e && ../../$(LINT) fmt -c ../../.golangci.yml ./...

build:
	$(GO) build -o $(BIN)/caddy ./cmd/caddy

clean:
	rm -rf $(BIN) test/e2e/screenshots test/e2e/oidc-provider/node_modules
