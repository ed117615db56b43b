"""How `image/build.sh` names the base, with a Docker client that only writes down what it is asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = "registry.example.com/litellm@sha256:" + "a" * 64
OTHER = "registry.example.com/litellm@sha256:" + "b" * 64

DOCKER = """#!/bin/sh
echo "$*" >>"$0.calls"
case "$1 $2" in
    'pull --quiet') exit "$PULL_STATUS" ;;
    'image inspect') [ -n "$INSPECTED" ] && echo "$INSPECTED" ;;
    'build --tag') cat >/dev/null ;;
esac
"""


class Build:
    """One run of the script; `calls` is what Docker was asked for."""

    def __init__(self, directory: Path, base: str, *, pull_status: int = 0, inspected: str = OTHER, **env: str) -> None:
        client = directory / "docker"
        client.write_text(DOCKER)
        client.chmod(0o755)
        settings = {"PATH": f"{directory}:{os.environ['PATH']}", "PULL_STATUS": str(pull_status), "RELEASE": ""}
        self.result = subprocess.run(
            [str(ROOT / "image/build.sh"), "guarded-litellm:never-built", base],
            capture_output=True,
            text=True,
            env=os.environ | settings | {"INSPECTED": inspected} | env,
            check=False,
        )
        calls = directory / "docker.calls"
        self.calls = calls.read_text() if calls.exists() else ""


@pytest.mark.parametrize(
    "base",
    [
        "docker.litellm.ai/berriai/litellm:main-stable",
        "litellm",
        "litellm@sha256:abc",
        f"litellm@sha256:{'A' * 64}",
        f"@sha256:{'a' * 64}",
        f"{NAMED} {NAMED}",
    ],
)
def test_a_release_is_refused_when_its_base_is_not_named_by_digest(tmp_path: Path, base: str) -> None:
    build = Build(tmp_path, base, RELEASE="1")
    assert build.result.returncode == 1
    assert build.result.stderr.count("\n") == 1
    assert base in build.result.stderr
    assert "BASE_IMAGE=name@sha256:" in build.result.stderr
    assert build.calls == ""


@pytest.mark.parametrize("base", [NAMED, NAMED.replace("@", ":main-stable@")])
def test_the_label_of_a_release_has_the_digest_it_was_asked_for(tmp_path: Path, base: str) -> None:
    build = Build(tmp_path, base, RELEASE="1")
    assert build.result.returncode == 0, build.result.stderr
    assert f"--build-arg BASE_IMAGE={base} " in build.calls
    assert f"--build-arg BASE_NAME={base} " in build.calls
    assert f"--build-arg BASE_DIGEST=sha256:{'a' * 64} " in build.calls


def test_a_release_is_never_built_on_the_stand_in(tmp_path: Path) -> None:
    build = Build(tmp_path, NAMED, pull_status=1, inspected="", RELEASE="1", STAND_IN="")
    assert build.result.returncode == 1
    assert "could not be pulled" in build.result.stderr
    assert "build " not in build.calls


def test_a_base_named_by_tag_is_labelled_with_the_digest_of_its_registry(tmp_path: Path) -> None:
    build = Build(tmp_path, "registry.example.com/litellm:main-stable")
    assert build.result.returncode == 0, build.result.stderr
    assert f"--build-arg BASE_DIGEST=sha256:{'b' * 64} " in build.calls
