# What each target does is said by `make help`.
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
TOOLS       := bin/tools
# For example TESTFLAGS='-run TestTakeover -v', or -json.
TESTFLAGS   ?=
# Addresses of a running broker's nodes for `make conformance`; empty: our own.
BROKERS     ?=
# Of `make sim`.
SEED        ?= 1
SEEDS       ?= 20
FAULTS      ?= 6
KINDS       ?=
# Of `make mutants`: names with commas between; empty: all.
MUTANTS     ?=
# Of `make chaos`.
LENGTH      ?= 5m
# The packages that have goroutines. The end-to-end tests are processes: nothing to see for the race
# detector. Of the simulation, slow under it, a short run follows.
RACE        ?= $$(go list ./cluster/... ./cmd/... ./mqtt/... ./proof/... | grep -vE '/proof/(e2e|conformance|sim)$$')

# Of `make image-tar` and `make release`.
ARCHS       ?= amd64 arm64
RELEASES    ?= amd64 arm64 armv7
REVISION     = $(shell git rev-parse HEAD 2>/dev/null)
CREATED      = $(shell git log -1 --format=%ct 2>/dev/null || echo 0)

.PHONY: help build run test conformance sim chaos mutants mutants-quick race vet lint bench proto image-tar release FORCE
help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort

build: ## build the static binary bin/flotilla
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/flotilla ./cmd/node

run: build ## run a cluster of three nodes on this machine; Ctrl-C stops it, its data stays in .run
	@bin/flotilla run --nodes 3 --dir .run

test: ## run all tests
	go test -timeout 20m $(TESTFLAGS) ./...
	go -C deploy test -timeout 20m $(TESTFLAGS) ./...

conformance: ## run the tables of MQTT scenarios on one node and on three; BROKERS=HOST:PORT,... on a running broker
	@go test ./proof/conformance -run '^Test(OneNode|ThreeNodes|Settings)$$' -count 1 -v $(if $(BROKERS),-args -brokers $(BROKERS)) | grep -vE '^(=== |    --- PASS)'

sim: ## run simulated clusters under faults: SEED is the first of SEEDS seeds, FAULTS what each survives, of KINDS
	go test ./proof/sim -run TestClusterUnderFaults -v -count 1 -timeout 0 -args -seed $(SEED) -seeds $(SEEDS) -faults $(FAULTS) -kinds '$(KINDS)'

mutants: ## show that planted bugs are found, and by whom (hours); MUTANTS names some of them. All: writes docs/reliability.md
	go test -tags mutants ./proof/mutant -run '^TestAllMutants$$' -v -count 1 -timeout 0 -args -update -only '$(MUTANTS)'

mutants-quick: ## show that the common planted bugs are found
	go test -tags mutants -timeout 20m -count 1 $(TESTFLAGS) ./proof/mutant -run '^Test(CommonMutants|TableIsWhole)$$'

chaos: build ## break three real processes for LENGTH and check what clients saw; as root all faults of the table; writes docs/reliability.md
	CGO_ENABLED=0 go build -trimpath -tags skewedclock -o bin/flotilla-skewed ./cmd/node
	go build -o bin/chaos ./proof/chaos
	@bin/chaos -length $(LENGTH) -seed $(SEED) -skewed bin/flotilla-skewed -report docs/reliability.md

race: ## run the tests of the packages with goroutines under the race detector
	go test -race -timeout 20m $(TESTFLAGS) $(RACE)
	go test -race -timeout 20m $(TESTFLAGS) ./proof/sim -run TestClusterUnderFaults -args -seeds 1 -faults 2

vet: ## check formatting and run go vet
	@files=$$(gofmt -l $$(git ls-files '*.go')); if [ -n "$$files" ]; then echo "not formatted (gofmt -w):"; echo "$$files"; exit 1; fi
	go vet ./...
	go vet -tags mutants ./proof/mutant
	go -C deploy vet ./...

lint: vet ## vet, and run the linter
	go run $(STATICCHECK) ./...
	cd deploy && go run $(STATICCHECK) ./...

bench: build ## measure three local nodes, beside Mosquitto where it is installed, and write docs/benchmarks.md
	bin/flotilla bench suite --report docs/benchmarks.md

# The static binary of one architecture; go knows what is up to date.
bin/linux-%/flotilla: FORCE
	CGO_ENABLED=0 GOOS=linux GOARCH=$(subst armv7,arm,$*) GOARM=7 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./cmd/node

image-tar: $(ARCHS:%=bin/linux-%/flotilla) ## write the container image of ARCHS as bin/flotilla-image.tar, for docker load and ctr images import
	go -C deploy run ./image -out ../bin/flotilla-image.tar -version $(VERSION) -revision "$(REVISION)" -created $(CREATED) \
		$(foreach a,$(ARCHS),$(a)=../bin/linux-$(a)/flotilla)

release: $(RELEASES:%=bin/linux-%/flotilla) ## write archives of RELEASES with their checksums to bin/release
	rm -rf bin/release && mkdir -p bin/release
	set -e; for arch in $(RELEASES); do \
		name=flotilla-$(VERSION)-linux-$$arch; mkdir bin/release/$$name; \
		cp bin/linux-$$arch/flotilla LICENSE README.md CHANGELOG.md deploy/systemd/flotilla.service deploy/systemd/flotilla.yaml bin/release/$$name; \
		tar -C bin/release --sort=name --owner=0 --group=0 --numeric-owner --mtime=@$(CREATED) -cf - $$name | gzip -9n >bin/release/$$name.tar.gz; \
		rm -r bin/release/$$name; \
	done
	cd bin/release && sha256sum *.tar.gz >SHA256SUMS && cat SHA256SUMS

proto: $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc $(TOOLS)/protoc-gen-go-vtproto ## regenerate the code of proto/
	$(TOOLS)/buf generate

$(TOOLS)/buf:
	GOBIN=$(CURDIR)/$(TOOLS) go install github.com/bufbuild/buf/cmd/buf@v1.75.0
$(TOOLS)/protoc-gen-go:
	GOBIN=$(CURDIR)/$(TOOLS) go install google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
$(TOOLS)/protoc-gen-go-grpc:
	GOBIN=$(CURDIR)/$(TOOLS) go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2
$(TOOLS)/protoc-gen-go-vtproto:
	GOBIN=$(CURDIR)/$(TOOLS) go install github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto@v0.6.1-0.20240319094008-0393e58bdf10
