"""The operator's LiteLLM config: read, flattened, with the callback injected.

The mounted files are never written. How LiteLLM reads them (version 1.106.2): `include` lists are merged at the top
level, lists extended and everything else replaced by the included file, so that an included `litellm_settings`
would drop callbacks injected into the root file; therefore includes are resolved here first, by the same rule.
"""

from __future__ import annotations

import importlib.util
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

CALLBACK: Final = "akto_guardrails.proxy_handler_instance"
# What Akto's documentation has operators write in their config for the file that they mount.
_DOCUMENTED_CALLBACK: Final = "custom_hooks.proxy_handler_instance"
_DOCUMENTED_FILE: Final = "custom_hooks.py"
_REFERENCE: Final = "os.environ/"
# LiteLLM makes the first of the second and others.
_DATABASE_NAMES: Final = ("DATABASE_URL", "DATABASE_HOST", "STORE_MODEL_IN_DB")
# Lists of callbacks of which LiteLLM 1.106.2 does not start when the package of one of them is missing.
_NEED_PROMETHEUS: Final = (
    ("callbacks", "prometheus"),
    ("success_callback", "prometheus"),
    ("service_callback", "prometheus_system"),
)
_PROMETHEUS_PACKAGE: Final = "prometheus_client"
# Up to where YAML's words quote the file. A single character of it, and names of YAML's own tokens, tell nothing.
_UNQUOTED: Final = re.compile(r"""(?:[^'"]|"'"|'(?:[^\\]|\\.|<[a-z ]+>)')*""")
_TAB: Final = repr("\t")
_AKTO_CLASS: Final = re.compile(r"^class GuardrailsHandler\b", re.MULTILINE)
GUARD_FILE: Final = f"{CALLBACK.partition('.')[0]}.py"


class ConfigError(Exception):
    """The config cannot be used. `what` and `fix` are for the operator."""

    def __init__(self, what: str, fix: str) -> None:
        self.what = what
        self.fix = fix
        super().__init__(f"{what} {fix}")


@dataclass(frozen=True, slots=True)
class Source:
    """The operator's config with includes resolved; `path` is None when there is none and one is generated."""

    path: Path | None
    content: Mapping[str, Any]


def read(path: Path) -> Source:
    """Reads the config at `path` and every file it includes; raises `ConfigError`."""
    root = _load(path, f"config {path}", "Mount it there, or correct the path the container is given.")
    if root is None:
        raise ConfigError(f"The config {path} is empty.", "Give it at least a model_list, or {} for an empty one.")
    content = {key: value for key, value in root.items() if key != "include"}
    loaded = {path.absolute()}
    pending = [(entry, path) for entry in _includes(root, path)]
    while pending:
        entry, declared_in = pending.pop(0)
        location = _include_location(entry, declared_in, path)
        if location in loaded:
            continue
        loaded.add(location)
        name = f"file {location}, included by {declared_in},"
        included = _load(location, name, f"Mount it there, too, or correct include in {declared_in}.") or {}
        pending += [(nested, location) for nested in _includes(included, location)]
        content = _merged(content, included)
    return Source(path, content)


def injected(source: Source) -> dict[str, Any]:
    """The config with exactly one guard, first among the callbacks; raises `ConfigError`.

    Where the callbacks may be kept in a database, and the file has none, it gets none: LiteLLM would take that for the
    operator's word, and no longer read those in the database (seen on 1.106.2). A worker adds the guard itself.
    """
    settings = source.content.get("litellm_settings")
    if settings is None:
        settings = {}
    if not isinstance(settings, dict):
        raise ConfigError(f"litellm_settings in {source.path} is not a mapping.", "Give it keys and values, or none.")
    if "callbacks" not in settings and _has_database(source.content):
        return dict(source.content)
    others = [callback for callback in _callbacks(settings, source) if not _is_guard(callback, source)]
    return {**source.content, "litellm_settings": {**settings, "callbacks": [CALLBACK, *others]}}


def _has_database(content: Mapping[str, Any]) -> bool:
    settings = content.get("general_settings")
    if isinstance(settings, dict) and (settings.get("database_url") or settings.get("store_model_in_db")):
        return True
    variables = content.get("environment_variables")
    return any(
        os.environ.get(name) or (isinstance(variables, dict) and variables.get(name)) for name in _DATABASE_NAMES
    )


def shadows_the_guard(source: Source) -> Path | None:
    """A module beside the config that LiteLLM would load in place of the guard's own package."""
    if source.path is None:
        return None
    shadow = source.path.parent / GUARD_FILE
    return shadow if shadow.exists() else None


def require_packages(source: Source) -> None:
    """Raises `ConfigError` when a callback in the config needs a package that is not there."""
    settings = source.content.get("litellm_settings")
    if not isinstance(settings, dict) or importlib.util.find_spec(_PROMETHEUS_PACKAGE) is not None:
        return
    for key, callback in _NEED_PROMETHEUS:
        found = settings.get(key)
        # Of another key's string LiteLLM takes each letter for a callback, and serves (1.106.2).
        if (key == "callbacks" and found == callback) or (isinstance(found, list) and callback in found):
            raise ConfigError(
                f"litellm_settings.{key} in {source.path} has {callback}, but the Python package {_PROMETHEUS_PACKAGE} "
                "is not in the image: LiteLLM would stop.",
                f"Build the image on a base that has {_PROMETHEUS_PACKAGE}, or remove {callback} from the config.",
            )


def _load(path: Path, name: str, how_to_have_it: str) -> dict[str, Any] | None:
    """What the file at `path` says; None when that is nothing. Raises `ConfigError`, in which it is called `name`."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"The {name} does not exist.", how_to_have_it) from None
    except (OSError, UnicodeDecodeError) as error:
        what = f"The {name} cannot be read: {_why(path, error)}."
        raise ConfigError(what, _how_to_make_readable(path, error)) from None
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"The {name} is not valid YAML: {_where(error)}.", _how_to_correct(error)) from None
    except (ValueError, RecursionError, LookupError, AttributeError, TypeError):
        # A date such as 2026-13-01, for example, or a tag such as !!bool before what is none.
        what = f"The {name} is not valid YAML: it holds a value that cannot be read."
        raise ConfigError(what, "Correct or quote it.") from None
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"The {name} is not a mapping at the top level.", "Give it keys such as model_list.")
    return content


def _why(path: Path, error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text (byte {error.start})"
    why = (error.strerror or type(error).__name__).lower()
    if not isinstance(error, PermissionError):
        return why
    place, status = _closed_place(path)
    what = "it" if place == path else f"the directory {place}"
    mode = stat.S_IMODE(status.st_mode)
    return f"{why} for user {os.getuid()}; {what} belongs to user {status.st_uid} with mode {mode:04o}"


def _closed_place(path: Path) -> tuple[Path, os.stat_result]:
    """Where reading `path` is refused: the directory that may not be entered, else the file itself."""
    place, status = Path("/"), Path("/").stat()
    for candidate in (*reversed(path.absolute().parents), path.absolute()):
        try:
            place, status = candidate, candidate.stat()
        except OSError:
            break
    return place, status


def _how_to_make_readable(path: Path, error: OSError | UnicodeDecodeError) -> str:
    if isinstance(error, IsADirectoryError):
        return "Mount the file itself there, or name the file in that directory."
    if isinstance(error, PermissionError):
        return "Make it readable for that user (chmod 0644 for a file, 0755 for a directory), or run as its owner."
    return "Save it as text in UTF-8."


def _where(error: yaml.YAMLError) -> str:
    """Line, column and the parser's words up to where they quote the file: a config may hold keys."""
    mark = getattr(error, "problem_mark", None)
    found = _UNQUOTED.match(_problem(error))
    problem = (found[0] if found else "").replace(f"character {_TAB}", "a tab").strip()
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark is not None else problem


def _how_to_correct(error: yaml.YAMLError) -> str:
    return "Indent with spaces: YAML takes no tabs there." if _TAB in _problem(error) else "Correct it there."


def _problem(error: yaml.YAMLError) -> str:
    return getattr(error, "problem", None) or "it cannot be parsed"


def _includes(config: Mapping[str, Any], path: Path) -> list[str]:
    entries = config.get("include", [])
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(f"include in {path} is not a list of file names.", "Write it as a list, one name an item.")
    return entries


def _include_location(entry: str, declared_in: Path, root: Path) -> Path:
    """Beside the file that declares it; failing that, beside the root config."""
    beside = Path(os.path.abspath(declared_in.parent / entry))  # noqa: PTH100 - resolves `..`, keeps symbolic links
    beside_root = Path(os.path.abspath(root.parent / entry))  # noqa: PTH100
    return beside_root if not beside.exists() and beside_root.exists() else beside


def _merged(base: Mapping[str, Any], included: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in included.items():
        if key == "include":
            continue
        before = merged.get(key)
        merged[key] = [*before, *value] if isinstance(before, list) and isinstance(value, list) else value
    return merged


def _callbacks(settings: Mapping[str, Any], source: Source) -> list[Any]:
    callbacks = settings.get("callbacks")
    if callbacks is None:
        return []
    if isinstance(callbacks, str):
        # LiteLLM resolves a reference that stands alone, but none in a list.
        return [_resolved(callbacks)]
    if isinstance(callbacks, list):
        return callbacks
    raise ConfigError(
        f"litellm_settings.callbacks in {source.path} is neither a list nor a name.", "Write it as a list of names."
    )


def _resolved(callback: str) -> str:
    name = callback.removeprefix(_REFERENCE)
    if name == callback:
        return callback
    value = os.environ.get(name)
    if not value:
        raise ConfigError(f"litellm_settings.callbacks refers to {name}, which is not set.", f"Set {name}.")
    return value


def _is_guard(callback: object, source: Source) -> bool:
    if callback == CALLBACK:
        return True
    if callback != _DOCUMENTED_CALLBACK:
        return False
    file = None if source.path is None else source.path.parent / _DOCUMENTED_FILE
    try:
        return file is None or _AKTO_CLASS.search(file.read_text(encoding="utf-8", errors="replace")) is not None
    except FileNotFoundError:
        return True
    except OSError:
        return False
