"""Pods of Kubernetes as containers of Docker: what a node does with a spec, as far as Docker can do it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from integration.containers import IMAGE, MASTER_KEY, TOKEN, GuardedProxy, Service

Manifest = Mapping[str, Any]
# The Secret of the examples as an operator creates it.
SECRET = {"AKTO_API_TOKEN": TOKEN, "LITELLM_MASTER_KEY": MASTER_KEY, "OPENAI_API_KEY": "model-key-098f6bcd4621"}

# In place of the example's address, and of the prices that LiteLLM would look up in the internet.
MOCK_ADDRESSES = {"DATA_INGESTION_SERVICE_URL": "http://mock-akto:8080", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


class Pod(GuardedProxy):
    """The image under test, started with the `docker_options` of a pod spec and nothing else."""

    def __init__(self, network: Network, options: Mapping[str, Any]) -> None:
        others = dict(options)
        tmpfs = others.pop("tmpfs")
        container = DockerContainer(IMAGE, network=network, **others)
        for path in tmpfs:
            container.with_tmpfs_mount(path)
        Service.__init__(self, container, 4000)


def docker_options(
    pod: Manifest, secrets: Mapping[str, Mapping[str, str]], config_maps: Mapping[str, Path]
) -> dict[str, Any]:
    """What Docker has to be told to run the first container of a pod spec.

    `secrets` are the keys and values of Secrets by their name, `config_maps` the directories of ConfigMaps.
    """
    container = pod["containers"][0]
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    mounts = [(mount, volumes[mount["name"]]) for mount in container.get("volumeMounts", [])]
    files = [(mount, volume["configMap"]["name"]) for mount, volume in mounts if "configMap" in volume]
    options = {
        "command": container.get("args"),
        "env": environment(container, secrets),
        "volumes": [bind(mount, config_maps[name]) for mount, name in files],
        "tmpfs": [mount["mountPath"] for mount, volume in mounts if "emptyDir" in volume],
        **confinement({**pod.get("securityContext", {}), **container.get("securityContext", {})}),
    }
    memory = container.get("resources", {}).get("limits", {}).get("memory")
    return options | ({"mem_limit": memory.removesuffix("i")} if memory else {})


def environment(container: Manifest, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The variables of a container; those of `env` win over those of `envFrom`."""
    whole = [secrets[source["secretRef"]["name"]] for source in container.get("envFrom", [])]
    found = {name: text for secret in whole for name, text in secret.items()}
    for entry in container.get("env", []):
        reference = entry.get("valueFrom", {}).get("secretKeyRef")
        found[entry["name"]] = secrets[reference["name"]][reference["key"]] if reference else entry["value"]
    return found


def bind(mount: Manifest, directory: Path) -> tuple[str, str, str]:
    """A mount of a ConfigMap, or of one file of it; nobody can write to it."""
    return str(directory / mount.get("subPath", "")), mount["mountPath"], "ro"


def confinement(security: Manifest) -> dict[str, Any]:
    """Docker's words for a security context. RuntimeDefault is what Docker does without being told."""
    assert security.get("seccompProfile", {"type": "RuntimeDefault"}) == {"type": "RuntimeDefault"}
    options: dict[str, Any] = {"read_only": security.get("readOnlyRootFilesystem", False)}
    if "runAsUser" in security:
        options["user"] = f"{security['runAsUser']}:{security.get('runAsGroup', 0)}"
    if security.get("allowPrivilegeEscalation") is False:
        options["security_opt"] = ["no-new-privileges:true"]
    if "capabilities" in security:
        options["cap_drop"] = security["capabilities"]["drop"]
    return options


def write_config_map(directory: Path, data: Mapping[str, str]) -> Path:
    """The files of a ConfigMap as a node lays them out: behind two links, so that all of them change at once."""
    version = directory / "..2026_01_01_00_00_00.1"
    version.mkdir()
    (directory / "..data").symlink_to(version.name)
    for name, text in data.items():
        (version / name).write_text(text)
        (directory / name).symlink_to(f"..data/{name}")
    for path in (directory, version):
        path.chmod(0o755)
    return directory


def variables(node: Any) -> Iterator[tuple[str, Any]]:
    """Every variable that a file sets by its value, be it an entry of a list or of a mapping."""
    if isinstance(node, list):
        for item in node:
            yield from variables(item)
    if isinstance(node, dict):
        if {"name", "value"} <= node.keys():
            yield node["name"], node["value"]
        for name, value in node.items():
            yield from variables(value)
            if isinstance(value, str):
                yield name, value
