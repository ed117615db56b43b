"""Everything that can be wrong before the start, found together."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dotenv import find_dotenv, load_dotenv

from akto_guardrails.problem import Problem
from akto_guardrails.settings import Settings, SettingsError, load_settings
from launcher.arguments import Arguments
from launcher.config import ConfigError, Source, injected, read, require_packages

_TEMPORARY: Final = ("/tmp", "/dev/shm")  # noqa: S108 - tried in this order, each for a private directory
_YAML: Final = (".yaml", ".yml")


class NotReady(Exception):
    """The proxy must not be started. `problems` holds all that is wrong."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        super().__init__(f"{len(problems)} problems")


@dataclass(frozen=True, slots=True)
class Plan:
    """What was found to be in order.

    `config` is the config with the callback injected; None when LiteLLM is to start without a file, for the reason in
    `without_file`. The startup hook then guards the workers alone.
    """

    settings: Settings
    source: Source
    config: Mapping[str, Any] | None
    without_file: str | None
    temporary: Path


def load_dot_env() -> None:
    """Takes variables from a `.env` file as LiteLLM itself does, so that both see the same; raises `NotReady`."""
    if os.environ.get("LITELLM_MODE", "DEV") != "DEV":
        return
    path = find_dotenv(usecwd=True)
    try:
        load_dotenv(path)
    except (OSError, UnicodeDecodeError):
        what = f"The file {path} cannot be read by user {os.getuid()}; LiteLLM would stop at it as well."
        raise NotReady((Problem(what, "Make it readable, or remove it."),)) from None


def check(arguments: Arguments, environment: Mapping[str, str]) -> Plan:
    """Checks variables, config and temporary directory; raises `NotReady` with every problem."""
    problems: list[Problem] = []
    settings: Settings | None = None
    temporary: Path | None = None
    source = Source(None, {})
    config: Mapping[str, Any] | None = None
    try:
        settings = load_settings(environment)
    except SettingsError as error:
        problems += error.problems
    without_file = reason_without_file(arguments, environment)
    try:
        if without_file is None:
            source, config = read_config(arguments, environment)
    except NotReady as error:
        problems += error.problems
    try:
        temporary = temporary_directory(environment)
    except ConfigError as error:
        problems.append(Problem(error.what, error.fix))
    if problems or settings is None or temporary is None:
        raise NotReady(tuple(problems))
    return Plan(settings, source, config, without_file, temporary)


def reason_without_file(arguments: Arguments, environment: Mapping[str, str]) -> str | None:
    """Why LiteLLM would not read an injected file, or would serve something else if it did; None when it would."""
    bucket = environment.get("LITELLM_CONFIG_BUCKET_NAME")
    if bucket:
        return f"in bucket {bucket}"
    if arguments.names_a_model and arguments.config is None and not environment.get("CONFIG_FILE_PATH"):
        # With any config file LiteLLM 1.106.2 looks for the model in that file's list alone.
        return "none, the model is on the command line"
    return None


def read_config(arguments: Arguments, environment: Mapping[str, str]) -> tuple[Source, Mapping[str, Any]]:
    """The operator's config, and the same with the callback injected; raises `NotReady` with every problem."""
    problems: list[Problem] = []
    try:
        _check_second_file(arguments, environment)
    except ConfigError as error:
        problems.append(Problem(error.what, error.fix))
    try:
        source = _find_source(arguments, environment)
        require_packages(source)
        config = injected(source)
    except ConfigError as error:
        raise NotReady((Problem(error.what, error.fix), *problems)) from None
    if problems:
        raise NotReady(tuple(problems))
    return source, config


def _check_second_file(arguments: Arguments, environment: Mapping[str, str]) -> None:
    """Raises `ConfigError` when LiteLLM would stop at the file of the command line, though it serves another.

    LiteLLM 1.106.2 serves that of CONFIG_FILE_PATH, but before that it reads the one it is given by --config, for the
    database, key management and json_logs.
    """
    served = environment.get("CONFIG_FILE_PATH")
    if not served or arguments.config is None or arguments.config == served:
        return
    # LiteLLM takes an empty name for none.
    if arguments.config or arguments.breaks_off:
        read(_named(arguments.config))


def _named(path: str) -> Path:
    """The file that --config names; raises `ConfigError` when it names none."""
    if not path or path.startswith("-"):
        raise ConfigError("--config is given without a file.", "Name one: --config /app/config.yaml; or leave it out.")
    return Path(path)


def _find_source(arguments: Arguments, environment: Mapping[str, str]) -> Source:
    """The config LiteLLM would load: CONFIG_FILE_PATH before the command line (LiteLLM 1.106.2).

    Raises `ConfigError`.
    """
    from_environment = environment.get("CONFIG_FILE_PATH")
    if from_environment:
        if not from_environment.lower().endswith(_YAML):
            raise ConfigError(
                f"CONFIG_FILE_PATH names {from_environment}, which LiteLLM ignores: it does not end in .yaml or .yml.",
                "Rename the file, or give it with --config.",
            )
        return read(Path(from_environment))
    return Source(None, {}) if arguments.config is None else read(_named(arguments.config))


def temporary_directory(environment: Mapping[str, str]) -> Path:
    """A directory this process can write to; raises `ConfigError` when there is none."""
    candidates = [*filter(None, [environment.get("TMPDIR")]), *_TEMPORARY]
    for candidate in candidates:
        try:
            with tempfile.TemporaryFile(dir=candidate):
                return Path(candidate)
        except OSError:
            continue
    raise ConfigError(
        f"User {os.getuid()} can write to none of {', '.join(candidates)}.",
        "Mount a temporary file system: docker run --tmpfs /tmp, or an emptyDir volume at /tmp.",
    )
