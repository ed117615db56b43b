"""What in the operator's config does not stop the start, but is hardly what was meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from akto_guardrails.problem import Problem
from akto_guardrails.settings import setting_names
from launcher.config import Source, shadows_the_guard

_BUILT_IN: Final = "akto"


def notices_of(source: Source) -> tuple[Problem, ...]:
    """What to say about the config, each with its fix."""
    return (*_shadow(source), *_doubled(source), *_unread(source))


def _shadow(source: Source) -> Iterator[Problem]:
    shadow = shadows_the_guard(source)
    if shadow is not None:
        yield Problem(f"{shadow} has the name of the guard's own package and is not used.", "Rename or remove it.")


def _doubled(source: Source) -> Iterator[Problem]:
    """LiteLLM's own guardrail for Akto beside the guard (`guardrails` of a config, LiteLLM 1.106.2)."""
    guardrails = source.content.get("guardrails")
    for entry in guardrails if isinstance(guardrails, list) else []:
        params = entry.get("litellm_params") if isinstance(entry, dict) else None
        if isinstance(params, dict) and params.get("guardrail") == _BUILT_IN:
            yield Problem(
                f"The guardrail {entry.get('guardrail_name')!s} in {source.path} is LiteLLM's own for Akto: "
                "what it covers is checked and recorded twice.",
                "Remove it from the config; the guard covers more.",
            )


def _unread(source: Source) -> Iterator[Problem]:
    """Settings of the guard among those that LiteLLM takes from its config: the guard is there before they are."""
    variables = source.content.get("environment_variables")
    found = sorted(setting_names() & {str(name) for name in variables}) if isinstance(variables, dict) else []
    if found:
        yield Problem(
            f"environment_variables in {source.path} sets {', '.join(found)}; the guard reads nothing from there.",
            "Set it on the container: compose `environment`, `docker run -e`, or `env` of the pod.",
        )
