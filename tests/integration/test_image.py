"""The image as `docker inspect` shows it, next to the base it was built from."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import yaml

from integration.containers import IMAGE, base_image, run_once
from structure import structure

ROOT = Path(__file__).resolve().parents[2]


def inspected(reference: str) -> dict[str, Any]:
    return docker.from_env().images.get(reference).attrs


@pytest.fixture(scope="module")
def image() -> dict[str, Any]:
    return inspected(IMAGE)


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return inspected(base_image())


@pytest.mark.parametrize(
    "setting", ["User", "WorkingDir", "ExposedPorts", "Cmd", "StopSignal", "Volumes", "Healthcheck"]
)
def test_it_runs_as_the_base_does(image: dict[str, Any], base: dict[str, Any], setting: str) -> None:
    assert image["Config"].get(setting) == base["Config"].get(setting)


def test_the_bases_environment_is_kept(image: dict[str, Any], base: dict[str, Any]) -> None:
    ours = dict(entry.split("=", 1) for entry in image["Config"]["Env"])
    for name, value in (entry.split("=", 1) for entry in base["Config"]["Env"]):
        assert value in ours[name]


def test_at_most_three_layers_and_200_kb_are_added(image: dict[str, Any], base: dict[str, Any]) -> None:
    layers, base_layers = image["RootFS"]["Layers"], base["RootFS"]["Layers"]
    assert layers[: len(base_layers)] == base_layers
    assert len(layers) - len(base_layers) <= 3
    assert image["Size"] - base["Size"] < 200_000


def test_labels_say_what_it_is_and_what_it_is_made_from(image: dict[str, Any]) -> None:
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in image["Config"]["Labels"].items()}
    for name in ("title", "description", "source", "documentation", "licenses", "version", "revision", "created"):
        assert labels[name]
    assert labels["licenses"] == "MIT"
    assert f'version = "{labels["version"]}"' in (ROOT / "pyproject.toml").read_text()
    reference = docker.from_env().images.get(labels["base.name"])
    digests = [digest.partition("@")[2] for digest in reference.attrs["RepoDigests"]]
    assert labels["base.digest"] in [*digests, reference.id]


def test_the_callback_is_importable_from_anywhere() -> None:
    script = "import akto_guardrails; print(akto_guardrails.__version__)"
    for directory in ("/", "/tmp", "/app"):
        status, out, err = run_once(["python", "-c", script], working_dir=directory)
        assert (status, err) == (0, "")
        assert out.strip() in (ROOT / "pyproject.toml").read_text()


def structure_test(wanted: dict[str, Any], directory: Path, image: str = IMAGE) -> dict[str, Any]:
    """What container-structure-test says of the image."""
    config = directory / "structure.yaml"
    config.write_text(yaml.safe_dump(wanted))
    command = [str(Path(sys.executable).with_name("container-structure-test")), "test", "--output", "json"]
    result = subprocess.run(
        [*command, "--image", image, "--config", str(config)], capture_output=True, text=True, check=False
    )
    return json.loads(result.stdout)


def failed(report: dict[str, Any]) -> list[str]:
    return [error for result in report["Results"] for error in result.get("Errors", [])]


def test_its_structure_is_that_of_the_base_and_the_guard(tmp_path: Path) -> None:
    report = structure_test(structure(IMAGE), tmp_path)
    assert failed(report) == []
    assert report["Pass"] == report["Total"] > 10


def test_the_structure_test_notices_what_differs(tmp_path: Path) -> None:
    wanted = structure(IMAGE) | {"commandTests": []}
    wanted["metadataTest"]["workdir"] = "/elsewhere"
    wanted["metadataTest"]["envVars"][0]["value"] += ":/elsewhere"
    wanted["fileExistenceTests"][0]["permissions"] = "-rwxrwxrwx"
    report = structure_test(wanted, tmp_path)
    assert len(failed(report)) == 3, report


@pytest.fixture
def nonroot() -> Iterator[str]:
    """An image on a base that does not run as root, such as LiteLLM's non-root one."""
    images = docker.from_env().images
    base, image = "guarded-litellm-nonroot-test:base", "guarded-litellm-nonroot-test:image"
    images.build(fileobj=io.BytesIO(f"FROM {base_image()}\nUSER 65534:65534\n".encode()), tag=base)
    try:
        subprocess.run([ROOT / "image/build.sh", image, base], env=os.environ | {"RELEASE": ""}, check=True)
        yield image
    finally:
        for tag in (image, base):
            images.remove(tag, force=True)


def test_a_base_with_another_user_keeps_it_and_the_files_stay_roots(nonroot: str, tmp_path: Path) -> None:
    wanted = structure(nonroot) | {"commandTests": []}
    assert wanted["metadataTest"]["user"] == "65534:65534"
    assert failed(structure_test(wanted, tmp_path, nonroot)) == []


def test_the_clock_shows_utc() -> None:
    assert run_once(["+%Z"], entrypoint="date") == (0, "UTC\n", "")


def test_nobody_can_log_in_with_a_password_from_the_image() -> None:
    """Neither file has a hash that is not locked, or an empty password, which lets anybody in."""
    script = "cat /etc/passwd; test ! -e /etc/shadow || cat /etc/shadow"
    status, listing, err = run_once(["sh", "-c", script], user="0")
    assert (status, err) == (0, "")
    passwords = [tuple(line.split(":")[:2]) for line in listing.splitlines()]
    assert "root" in dict(passwords)
    usable = [name for name, password in passwords if password not in ("x", "*") and not password.startswith("!")]
    assert usable == []


def test_nothing_is_installed_that_the_base_lacks() -> None:
    listing = "import importlib.metadata as m; print(sorted(d.name for d in m.distributions()))"
    packages = run_once(["python", "-c", listing])
    container = docker.from_env().containers.run(
        base_image(), ["-c", listing], entrypoint="python", remove=True, stdout=True
    )
    assert packages[1] == container.decode()


def test_no_certificate_of_the_building_machine_ships() -> None:
    """The stand-in base trusts what Debian's package brings and nothing that was only needed to build it."""
    if "stand-in" not in base_image():
        pytest.skip("the base was pulled, so no certificate of this machine was handed to any build step")
    script = """
        find / -xdev -name 'ca-bundle*'
        find /usr/local/share/ca-certificates -type f
        packaged=$(find /usr/share/ca-certificates -name '*.crt' | wc -l)
        test "$(grep -c BEGIN /etc/ssl/certs/ca-certificates.crt)" = "$packaged"
    """
    assert run_once(["sh", "-ec", script]) == (0, "", "")


def test_the_bill_of_materials_names_what_litellm_consists_of(tmp_path: Path) -> None:
    written = tmp_path / "sbom.cdx.json"
    subprocess.run(["make", "sbom", f"IMAGE={IMAGE}", f"SBOM={written}"], cwd=ROOT, check=True)
    bill = json.loads(written.read_text())
    assert bill["bomFormat"] == "CycloneDX"
    listed = {part["purl"].partition("?")[0] for part in bill["components"] if "purl" in part}
    for package in ("litellm", "aiohttp"):
        script = f"import importlib.metadata as m; print(m.version('{package}'), end='')"
        status, version, _ = run_once(["python", "-c", script])
        assert status == 0
        assert f"pkg:pypi/{package}@{version}" in listed


def build(docker_command: str, tag: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [docker_command, "build", "--build-arg", f"BASE_IMAGE={base_image()}", "--tag", tag, str(ROOT)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | env, check=False)


@pytest.mark.parametrize("buildkit", ["0", "1"], ids=["legacy builder", "BuildKit"])
def test_the_dockerfile_builds_with_both_builders(buildkit: str) -> None:
    tag = f"{IMAGE.partition(':')[0]}-builder-test:{buildkit}"
    tried = []
    # A client without buildx refuses BuildKit; Debian's own, beside it, has it built in.
    for client in dict.fromkeys([shutil.which("docker") or "docker", "/usr/bin/docker"]):
        result = build(client, tag, DOCKER_BUILDKIT=buildkit)
        tried.append(f"{client}: {result.stderr}")
        if result.returncode == 0:
            break
    else:
        pytest.fail("\n".join(tried))
    try:
        labels = inspected(tag)["Config"]["Labels"]
        assert labels["org.opencontainers.image.title"] == "guarded-litellm"
        assert json.loads(json.dumps(inspected(tag)["Config"]["Entrypoint"])) == ["/opt/akto/entrypoint.sh"]
    finally:
        docker.from_env().images.remove(tag, force=True)


def test_a_base_that_cannot_be_had_is_said_loudly_and_can_be_refused() -> None:
    command = [str(ROOT / "image/build.sh"), "guarded-litellm:never-built", "registry.invalid/no/such:image"]
    refused = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"STAND_IN": "never", "RELEASE": ""}, check=False
    )
    assert refused.returncode != 0
    assert "could not be pulled" in refused.stderr
    with pytest.raises(docker.errors.ImageNotFound):
        docker.from_env().images.get("guarded-litellm:never-built")


def test_make_builds_the_image_under_the_name_asked_for() -> None:
    client = docker.from_env()
    reference = "guarded-litellm-make-test:tag"
    subprocess.run(["make", "image", f"IMAGE={reference}", f"BASE_IMAGE={base_image()}"], cwd=ROOT, check=True)
    try:
        assert client.images.get(reference).labels["org.opencontainers.image.base.name"] == base_image()
    finally:
        client.images.remove(reference, force=True)


def test_the_stand_in_base_is_built_once_and_found_again() -> None:
    if "stand-in" not in base_image():
        pytest.skip("the base was pulled, so there is no stand-in on this machine to be found again")
    release = base_image().partition(":")[2].partition("-")[0]
    command = [ROOT / "image/base/build.sh", release]
    again = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    assert again.stdout.strip() == base_image()
    assert "is already here" in again.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without access to Docker")
def test_who_cannot_have_an_engine_gets_one_clear_line() -> None:
    script = (ROOT / "image/engine.sh").read_text()
    result = subprocess.run(
        ["sh", "-s"], input=script, capture_output=True, text=True, user=65534, cwd="/", check=False
    )
    assert result.returncode == 1
    assert result.stderr == (
        "docker engine: none answers; start Docker, or run this as root on Debian or Ubuntu to have it installed\n"
    )
