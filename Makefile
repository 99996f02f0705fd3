# What each target does is in the README and in `make help`. Everything missing
# is installed first (test/setup/install.sh), as root or by sudo.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build
.PHONY: build setup vet test race model demo bench bench-go fuzz clean help

# go from the path, or the toolchain that the setup fetched.
USE_GO = export PATH="$$(test/setup/go.sh):$$PATH"
# The commit goes into the binary where git can say it.
VCS = $$(git status >/dev/null 2>&1 && echo true || echo false)

TIMEOUT ?= 25m
# This package takes half of the time, so it begins first, and the others run beside it.
LONGEST = ./test/e2e
FUZZTIME ?= 1m
# further flags of the bench: see bin/bench -help
BENCH ?=
# how many schedules the model runs
MODEL_N ?= 1000000
# packages with a function of this kind
with = $$(grep -rlE '^func $(1)[A-Z]' --include='*_test.go' . | xargs -r -n 1 dirname | sort -u)

build: ## bin/pgtrove
	@test/setup/install.sh build
	$(USE_GO); CGO_ENABLED=0 go build -trimpath -buildvcs=$(VCS) -o bin/pgtrove ./cmd/pgtrove

setup: ## install what the tests need
	@test/setup/install.sh test

vet:
	$(USE_GO); go vet ./...

test: setup ## vet and all tests, on real servers of 13 to 18
	$(USE_GO); go vet ./... && go test -count=1 -timeout $(TIMEOUT) $(LONGEST) ./...

race: setup ## the tests with the race detector (needs a C compiler)
	$(USE_GO); CGO_ENABLED=1 go test -race -count=1 -timeout 60m ./...

model: ## writers, prunes and readers in MODEL_N random schedules, and the bugs that these must find: hours
	@test/setup/install.sh build
	$(USE_GO); go test -v -count=1 -timeout 0 ./test/model -model.n $(MODEL_N) -model.time 0 -model.processes "$$(nproc)" -model.mutants .

demo: ## a story on a scratch cluster: back up, lose a table, get it back
	@test/setup/install.sh demo
	@$(MAKE) --no-print-directory -s build
	@test/demo/demo.sh

bench: ## everything in docs/performance.md, beside other programs; writes its tables (BENCH='-quick' and so on)
	@test/setup/install.sh bench
	@$(MAKE) --no-print-directory -s build
	@$(USE_GO); go build -trimpath -o bin/bench ./test/bench && bin/bench -pgtrove bin/pgtrove -docs docs/performance.md $(BENCH)

bench-go: ## Go benchmarks of the parts: MB/s, allocations
	@test/setup/install.sh build
	$(USE_GO); go test -run '^$$' -bench . -benchmem $(call with,Benchmark)

fuzz: ## each fuzzed decoder for FUZZTIME (1m)
	@test/setup/install.sh build
	@$(USE_GO); failed=0; for dir in $(call with,Fuzz); do \
		for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$dir/*_test.go | cut -c 6-); do \
			echo "$$dir $$f"; \
			go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) $$dir || failed=1; \
		done; \
	done; exit $$failed

clean: ## what build made; the cache of the tests stays (test/setup/cache-dir.sh says where)
	rm -rf bin

help: ## this list
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1\t\2/p' Makefile | expand -t 14
