# 'make up' and 'make test' are the two that matter; each does all that it needs on a bare machine.
.PHONY: help up down test check fix bench lock doctor venv dev engine images clean
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

help: ## what can be made
	@sed -n -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

up: venv images ## from a bare machine to a healthy stack, and one workflow through it
	@.ci/stack.sh up
	@.ci/smoke.sh

down: ## stop the stack; leave nothing of it in the engine, /dev/shm and /run (data and images stay)
	@.ci/stack.sh down

test: dev images ## the whole test suite, real engine included (LEVEL=unit for one level)
	@.ci/test.sh $(LEVEL)

check: dev ## format, lint, types, layering
	@.ci/check.sh

fix: dev ## mend format and lint
	@.ci/check.sh fix

bench: dev images ## the benchmarks beside their peers (BENCH="--quick", see docs/performance.md)
	@.venv/bin/python -m benchmarks $(BENCH)

doctor: venv ## what is missing on this machine, and what to do
	@./ringfence doctor

lock: dev ## write the lock files anew (UPGRADE=--upgrade takes newer versions)
	@.ci/lock.sh $(UPGRADE)

venv: ## the command ./ringfence only
	@.ci/venv.sh run

dev: ## the environment of the tests and checks
	@.ci/venv.sh dev

engine: ## a container engine with compose and buildx
	@.ci/engine.sh

images: engine venv ## the images of the host and of the sandboxes
	@.ci/base.sh
	@.ci/images.sh

clean: down ## down, and remove images, environments and build files (data stays; DATA=yes removes it too)
	@.ci/clean.sh $(if $(filter yes,$(DATA)),data)
