"""The release workflow, as far as it can be judged without running it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from structure import version

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
STEPS: list[dict[str, Any]] = [step for job in WORKFLOW["jobs"].values() for step in job["steps"]]
DIGEST = f"sha256:{'b' * 64}"


def step_using(action: str) -> dict[str, Any]:
    return next(step for step in STEPS if step.get("uses", "").startswith(f"{action}@"))


@pytest.mark.parametrize("action", sorted({step["uses"] for step in STEPS if "uses" in step}))
def test_actions_are_pinned_by_commit(action: str) -> None:
    assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action)


@pytest.mark.parametrize("script", [step["run"] for step in STEPS if "run" in step])
def test_scripts_are_sound_and_get_what_they_need_from_their_environment(script: str) -> None:
    assert "${{" not in script
    checker = Path(sys.executable).with_name("shellcheck")
    checked = subprocess.run([checker, "--shell=bash", "-"], input=script, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_every_argument_of_the_dockerfile_is_given() -> None:
    wanted = set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    given = step_using("docker/build-push-action")["with"]["build-args"]
    assert {line.partition("=")[0] for line in given.splitlines()} == wanted


def test_the_image_is_published_only_after_its_tests_and_with_no_more_rights_than_that_needs() -> None:
    assert WORKFLOW["permissions"] == {}
    rights = {name: job["permissions"] for name, job in WORKFLOW["jobs"].items()}
    assert rights.pop("publish") == {"contents": "read", "packages": "write", "id-token": "write"}
    assert all(others == {"contents": "read"} for others in rights.values())
    assert "test" in WORKFLOW["jobs"]["publish"]["needs"]


def plan(directory: Path, base: str, tag: str) -> tuple[int, dict[str, str]]:
    """Exit status and outputs of the step that decides what is released; Docker knows one digest for everything."""
    client = directory / "docker"
    client.write_text(f"#!/bin/sh\necho {DIGEST}\n")
    client.chmod(0o755)
    output = directory / "output"
    output.touch()
    env = {
        "PATH": f"{directory}:{os.environ['PATH']}",
        "BASE_IMAGE": base,
        "GITHUB_OUTPUT": str(output),
        "GITHUB_REF_NAME": tag,
        "GITHUB_REPOSITORY": "Example/Guarded-LiteLLM",
    }
    script = next(step["run"] for step in STEPS if step.get("id") == "plan")
    status = subprocess.run(["bash", "-e", "-c", script], cwd=ROOT, env=env, check=False).returncode
    return status, dict(line.split("=", 1) for line in output.read_text().splitlines())


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("docker.litellm.ai/berriai/litellm:main-stable", "docker.litellm.ai/berriai/litellm"),
        ("registry.example.com:5000/litellm", "registry.example.com:5000/litellm"),
        (f"registry.example.com:5000/litellm:v1@{DIGEST}", "registry.example.com:5000/litellm"),
    ],
)
def test_the_base_is_named_by_its_digest(tmp_path: Path, base: str, name: str) -> None:
    status, said = plan(tmp_path, base, f"v{version()}")
    assert status == 0
    assert (said["base"], said["digest"]) == (f"{name}@{DIGEST}", DIGEST)
    assert (said["image"], said["version"]) == ("ghcr.io/example/guarded-litellm", version())


def test_a_tag_that_is_not_the_version_is_refused(tmp_path: Path) -> None:
    assert plan(tmp_path, "litellm", "v999.0.0") == (1, {})
