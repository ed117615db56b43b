"""`make verify`: which image it looks at, and beside which base."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from docker.errors import ImageNotFound

from structure import LABEL, base_of

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "registry.example.com/guarded-litellm:1"
REGISTRY = f"sha256:{'a' * 64}"
OWN_ID = f"sha256:{'b' * 64}"


@pytest.mark.parametrize("target", ["verify", "sbom"])
@pytest.mark.parametrize("is_there", [True, False])
def test_an_image_that_is_there_is_looked_at_as_it_is(tmp_path: Path, target: str, is_there: bool) -> None:
    client = tmp_path / "docker"
    client.write_text(f"#!/bin/sh\n[ \"$*\" != 'image inspect {IMAGE}' ] || exit {int(not is_there)}\n")
    client.chmod(0o755)
    # Lines that call make again are run even in a dry run: with the Docker client above.
    made = subprocess.run(
        ["make", "--dry-run", "--old-file=lint", target, f"IMAGE={IMAGE}"],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("image/build.sh" in made.stdout) is not is_there
    assert ("as it is" in made.stderr) is is_there


class Images:
    """Images of a machine, and what it has pulled."""

    def __init__(self, *references: str) -> None:
        self._references = references
        self.pulled: list[str] = []

    def get(self, reference: str) -> str:
        if reference not in self._references:
            raise ImageNotFound(reference)
        return reference

    def pull(self, reference: str) -> str:
        self.pulled.append(reference)
        return reference


def base(images: Images, name: str, digest: str) -> Any:
    return base_of(SimpleNamespace(images=images), {f"{LABEL}base.name": name, f"{LABEL}base.digest": digest})


@pytest.mark.parametrize(
    "name",
    [
        "host:5000/litellm:main-stable",
        "host:5000/litellm",
        f"host:5000/litellm@{REGISTRY}",
        f"host:5000/litellm:1@{REGISTRY}",
    ],
)
def test_the_base_is_the_one_that_the_image_was_built_on_wherever_its_tag_points_now(name: str) -> None:
    here = Images(name, f"host:5000/litellm@{REGISTRY}")
    assert base(here, name, REGISTRY) == f"host:5000/litellm@{REGISTRY}"
    assert here.pulled == []
    elsewhere = Images(name.partition("@")[0])
    assert base(elsewhere, name, REGISTRY) == f"host:5000/litellm@{REGISTRY}"
    assert elsewhere.pulled == [f"host:5000/litellm@{REGISTRY}"]


def test_a_base_of_this_machine_alone_is_known_by_its_id() -> None:
    assert base(Images(OWN_ID, "stand-in:1"), "stand-in:1", OWN_ID) == OWN_ID
