# make demo    the whole thing on a machine with nothing but Docker
# make test    linters, unit tests, and integration tests against the built image
# make lint    the linters alone
# make unit    the unit tests alone, without Docker
# make integration  the integration tests alone, against the built image
# make releases    images on other LiteLLM releases, on stand-in bases, and what they must be able to do
# make bench   what the guard costs, beside the unguarded image (30 minutes; BENCH_QUICK=1: 3 minutes, README as it is)
# make soak    15 minutes at the machine's capacity with an Akto that comes and goes
# make image   the image: IMAGE=name:tag, BASE_IMAGE=reference, STAND_IN=never to refuse the stand-in base,
#              RELEASE=1 to refuse a base without a digest, too
# make verify  linters, and the structure of the image beside that of the base it was built on; builds the image only
#              where there is none of that name
# make screenshot  the picture of the mock Akto's page in the README
# make sbom    what the image consists of, as CycloneDX JSON in SBOM=sbom.cdx.json
# make clean   removes the tools that the tests installed, and their caches

IMAGE ?= guarded-litellm:latest
BASE_IMAGE ?= docker.litellm.ai/berriai/litellm:main-stable
SBOM ?= sbom.cdx.json
export STAND_IN KEEP RELEASE

SHELL_SCRIPTS := entrypoint.sh $(wildcard image/*.sh image/base/*.sh image/base/unified/*.sh tests/*.sh tests/demo/*.sh) .ci/run
WORKFLOWS := $(wildcard .github/workflows/*.yml)
YAML := compose.example.yml k8s.example.yml helm-values.example.yml helm-values.litellm.example.yml \
    tests/demo/config.yaml $(WORKFLOWS)

.PHONY: help engine image existing demo test lint verify sbom screenshot unit integration releases bench soak clean

help:
	@sed -n -e '/^$$/q' -e 's/^# //p' Makefile

engine:
	@image/engine.sh

image: engine
	@image/build.sh "$(IMAGE)" "$(BASE_IMAGE)"

# Of an image as it is: building it again could take a newer base, or another one than it was given.
existing: engine
	@if docker image inspect "$(IMAGE)" >/dev/null 2>&1; then \
	    echo "looking at $(IMAGE) as it is; make image builds it anew" >&2; \
	else $(MAKE) --no-print-directory image; fi

demo: image
	@tests/demo/run.sh "$(IMAGE)"

test: image
	@tests/venv.sh
	@$(MAKE) --no-print-directory lint
	GUARDED_IMAGE="$(IMAGE)" .venv/bin/python -m pytest --numprocesses 3 --dist loadfile $(PYTEST_OPTIONS)

lint:
	@tests/venv.sh
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/shellcheck $(SHELL_SCRIPTS)
	.venv/bin/shfmt -i 4 -ci -d $(SHELL_SCRIPTS)
	.venv/bin/hadolint Dockerfile $(wildcard image/base/Dockerfile image/base/*/Dockerfile)
	.venv/bin/yamllint --strict -d '{extends: default, rules: {document-start: disable, line-length: {max: 120}, comments-indentation: disable}}' $(YAML)
	.venv/bin/check-jsonschema --builtin-schema vendor.compose-spec compose.example.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.github-workflows $(WORKFLOWS)

verify: existing lint
	@.venv/bin/python tests/structure.py "$(IMAGE)" >structure.yaml
	.venv/bin/container-structure-test test --image "$(IMAGE)" --config structure.yaml

sbom: existing
	@tests/venv.sh
	SYFT_CHECK_FOR_APP_UPDATE=false .venv/bin/syft scan --quiet "docker:$(IMAGE)" --output "cyclonedx-json=$(SBOM)"

screenshot: image
	@tests/venv.sh
	@mkdir -p image/observability
	GUARDED_IMAGE="$(IMAGE)" GUARDED_SCREENSHOT=image/observability/mock-akto.png .venv/bin/python -m pytest -rs \
	    tests/integration/test_mock_page.py --quiet --quiet -k fits $(PYTEST_OPTIONS)

unit:
	@tests/venv.sh
	.venv/bin/python -m pytest tests/unit $(PYTEST_OPTIONS)

integration: image
	@tests/venv.sh
	GUARDED_IMAGE="$(IMAGE)" .venv/bin/python -m pytest tests/integration $(PYTEST_OPTIONS)

# Not part of `make test`: it takes about six minutes for each release, and two more where its base is to be built.
# The older ones have no collector yet.
RELEASES := 1.83.14 1.96.2 1.110.2

releases: engine
	@tests/venv.sh
	@for release in $(RELEASES); do \
	    base=$$(image/base/build.sh "$$release") && image/build.sh "guarded-litellm:$$release" "$$base" && \
	    GUARDED_IMAGE="guarded-litellm:$$release" .venv/bin/python -m pytest -rs \
	        tests/integration/test_routes.py tests/integration/test_start.py \
	        --deselect tests/integration/test_start.py::test_litellms_collector_runs_without_the_guards_settings \
	        $(PYTEST_OPTIONS) || exit 1; \
	done

# Not part of `make test`: on a busy machine it measures the machine.
bench: image
	@tests/venv.sh
	PYTHONPATH=tests GUARDED_IMAGE="$(IMAGE)" .venv/bin/python -m bench

# Not part of `make test` either: 15 minutes, or SOAK_SECONDS.
soak: image
	@tests/venv.sh
	PYTHONPATH=tests GUARDED_IMAGE="$(IMAGE)" .venv/bin/python -m soak

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
