"""What container-structure-test is to find in an image, made from the image's base.

usage: tests/structure.py IMAGE    prints the test as YAML

Whatever the base says about user, directory, ports, command and environment has to be the same in the image, so no
such value stands here. What stands here is what the image adds.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import docker
import yaml
from docker.errors import APIError

ROOT = Path(__file__).resolve().parents[1]
LABEL = "org.opencontainers.image."
ENTRYPOINT = "/opt/akto/entrypoint.sh"
HOOK = "/opt/akto/hook.zip"
PACKED = (HOOK, "/opt/akto/launcher.zip", "/opt/akto/mock_akto.zip")
STARTUP_HOOK = "akto_guardrails.worker_startup:ensure_guarded"


def version() -> str:
    found = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def environment(base: dict[str, Any]) -> dict[str, str]:
    """The base's variables; where the image needs one of them too, its own value comes first."""
    kept = dict(entry.split("=", 1) for entry in base.get("Env") or [])
    found = [HOOK, kept.get("PYTHONPATH")]
    run = [STARTUP_HOOK, kept.get("LITELLM_WORKER_STARTUP_HOOKS")]
    return kept | {
        "PYTHONPATH": ":".join(filter(None, found)),
        "LITELLM_WORKER_STARTUP_HOOKS": ",".join(filter(None, run)),
        "TIMEOUT_WORKER_HEALTHCHECK": "15",
    }


def labels(base_name: str) -> list[dict[str, Any]]:
    texts = {"title": "guarded-litellm", "licenses": "MIT", "version": version(), "base.name": base_name}
    digest = base_name.partition("@")[2] or "sha256:[0-9a-f]{64}"
    patterns = {"base.digest": f"^{digest}$", "revision": "^([0-9a-f]{40}|unknown)$"}
    return [{"key": LABEL + name, "value": text} for name, text in texts.items()] + [
        {"key": LABEL + name, "value": pattern, "isRegex": True} for name, pattern in patterns.items()
    ]


def metadata(base: dict[str, Any], base_name: str) -> dict[str, Any]:
    found = {
        "envVars": [{"key": name, "value": text} for name, text in environment(base).items()],
        "labels": labels(base_name),
        "exposedPorts": [port.removesuffix("/tcp") for port in base.get("ExposedPorts") or {}],
        "volumes": list(base.get("Volumes") or {}),
        "entrypoint": [ENTRYPOINT],
        "cmd": base.get("Cmd"),
        "workdir": base.get("WorkingDir"),
        "user": base.get("User"),
    }
    return {name: value for name, value in found.items() if value}


def files() -> list[dict[str, Any]]:
    """The image's own files: root's, readable for everybody and writable for nobody else."""
    modes = {ENTRYPOINT: "-rwxr-xr-x", "/opt/akto": "drwxr-xr-x"} | dict.fromkeys(PACKED, "-r--r--r--")
    present = [
        {"name": path, "path": path, "shouldExist": True, "permissions": mode, "uid": 0, "gid": 0}
        for path, mode in modes.items()
    ]
    return [*present, {"name": "no sources left behind", "path": "/tmp/packing", "shouldExist": False}]


def command(name: str, words: list[str], said: dict[str, list[str]], status: int = 0) -> dict[str, Any]:
    # LiteLLM would look for newer prices of models on the network, even for its version.
    env = [{"key": "LITELLM_LOCAL_MODEL_COST_MAP", "value": "True"}]
    return {"name": name, "envVars": env, "command": words[0], "args": words[1:], "exitCode": status, **said}


def commands(base: dict[str, Any]) -> list[dict[str, Any]]:
    importing = "import akto_guardrails; print(akto_guardrails.__version__)"
    version_line = f"^{re.escape(version())}\n$"
    tests = [
        command("the guard", ["python", "-c", importing], {"expectedOutput": [version_line]}),
        command("--version", [ENTRYPOINT, "--version"], {"expectedOutput": ["LiteLLM"]}),
        command("another command", [ENTRYPOINT, "echo", "Hello X"], {"expectedOutput": ["^Hello X\n$"]}),
        command("the test double", [ENTRYPOINT, "mock-akto", "?"], {"expectedError": ["usage: mock-akto"]}, 1),
        command("no settings", [ENTRYPOINT], {"expectedError": ["DATA_INGESTION_SERVICE_URL", "AKTO_API_TOKEN"]}, 78),
    ]
    if not base.get("User"):
        # No user in the metadata means to the tool that any user will do.
        tests.append(command("root, as in the base", ["id", "-u"], {"expectedOutput": ["^0\n$"]}))
    return tests


def base_of(client: Any, labels: dict[str, str]) -> Any:
    """The base that an image with these labels was built on, whatever the base's tag stands for today."""
    digest, name = (labels.get(f"{LABEL}base.{what}", "unknown") for what in ("digest", "name"))
    if "unknown" in (digest, name):
        sys.exit("the image does not say which base it was built on; `make image` has it do so")
    repository = re.sub(r":[^:/]*$", "", name.partition("@")[0])
    # A base that is on this machine alone has its own id for a digest.
    for reference in (digest, f"{repository}@{digest}"):
        try:
            return client.images.get(reference)
        except APIError:
            pass
    try:
        return client.images.pull(f"{repository}@{digest}")
    except APIError as error:
        sys.exit(f"the base {repository}@{digest} is not on this machine and cannot be pulled: {error.explanation}")


def structure(image: str) -> dict[str, Any]:
    client = docker.from_env()
    found = client.images.get(image).labels
    base = base_of(client, found).attrs["Config"]
    base_name = found[f"{LABEL}base.name"]
    return {
        "schemaVersion": "2.0.0",
        "metadataTest": metadata(base, base_name),
        "fileExistenceTests": files(),
        "commandTests": commands(base),
    }


if __name__ == "__main__":
    yaml.safe_dump(structure(sys.argv[1]), sys.stdout, sort_keys=False)
