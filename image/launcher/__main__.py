"""`python -m launcher ARGUMENTS`: the guarded start of the proxy. Ends as the base image's own entrypoint."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from akto_guardrails.problem import Problem, report
from akto_guardrails.settings import Settings
from launcher.arguments import Arguments, parse
from launcher.config import CALLBACK
from launcher.notices import notices_of
from launcher.preflight import NotReady, Plan, check, load_dot_env
from launcher.private_copy import write_private
from launcher.probe import Access, ask, problem_of

EX_CONFIG: Final = 78
# Akto is not there: starting again later may help, which no other configuration does.
EX_UNREACHABLE: Final = 1
# The newest base image dispatches component words, the older one takes options only.
_UNIFIED_ENTRYPOINT: Final = Path("/app/docker-entrypoint.sh")
_OLDER_ENTRYPOINT: Final = Path("/app/docker/prod_entrypoint.sh")
_HERE: Final = Path(__file__).resolve().parents[1]
_STARTUP_HOOK: Final = "akto_guardrails.worker_startup:ensure_guarded"


def main(command_line: Sequence[str]) -> NoReturn:
    """Checks, injects and replaces this process.

    Exits with one message when something is wrong: 78 for the configuration, 1 when Akto is not there and must be.
    """
    arguments = parse(command_line)
    if arguments.asks_for_information:
        hand_over(arguments)
    try:
        load_dot_env()
        plan = check(arguments, os.environ)
        for notice in notices_of(plan.source):
            _warn(notice)
        if plan.settings.startup_probe:
            _probe(plan.settings)
        prepared = _prepared(plan, arguments, os.environ)
    except NotReady as error:
        print(report(error.problems), file=sys.stderr)
        sys.exit(EX_CONFIG)
    hand_over(prepared)


def _probe(settings: Settings) -> None:
    """Asks Akto for its opinion of the token; raises `NotReady` when it has none of it."""
    answer = ask(settings, os.environ)
    problem = problem_of(answer, settings)
    if problem is None:
        return
    if answer.access is Access.DENIED:
        raise NotReady((problem,))
    if answer.access is Access.UNREACHABLE and settings.sync_mode and settings.fail_closed:
        print(
            f"guarded-litellm: not started: {problem.what}\n"
            "     UNREACHABLE_FALLBACK=fail_closed would refuse every request; STARTUP_PROBE=off starts all the same.\n"
            f"     {problem.fix}",
            file=sys.stderr,
        )
        sys.exit(EX_UNREACHABLE)
    _warn(problem)


def _warn(problem: Problem) -> None:
    print(f"guarded-litellm: warning | {problem.what} {problem.fix}", file=sys.stderr)


def _prepared(plan: Plan, arguments: Arguments, environment: MutableMapping[str, str]) -> Arguments:
    """Writes the injected config, points `environment` and the command line at it and says so in one line.

    Raises `NotReady`.
    """
    _keep_second_layer(environment)
    if str(plan.temporary) != "/tmp":  # noqa: S108 - LiteLLM needs one as well and would not look elsewhere
        environment["TMPDIR"] = str(plan.temporary)
    if not environment.get("CONFIG_FILE_PATH"):
        # Set but empty it makes LiteLLM load nothing at all.
        environment.pop("CONFIG_FILE_PATH", None)
    if plan.config is None:
        _say(plan, f"{plan.without_file}; guarded in each worker")
        return arguments
    try:
        copy = str(write_private(plan.config, plan.source, plan.temporary))
    except OSError as error:
        what = f"The config cannot be copied to {plan.temporary}: {(error.strerror or type(error).__name__).lower()}."
        raise NotReady((Problem(what, "Make room there, or mount a larger temporary file system."),)) from None
    _say(plan, "none given, one was generated" if plan.source.path is None else str(plan.source.path))
    # The gateway takes no --config, and a component named by the environment no command line.
    by_environment = "gateway" in (arguments.word, environment.get("LITELLM_COMPONENT"))
    if by_environment or "CONFIG_FILE_PATH" in environment:
        environment["CONFIG_FILE_PATH"] = copy
        return arguments
    return arguments.with_config(copy)


def _keep_second_layer(environment: MutableMapping[str, str]) -> None:
    """An operator's own PYTHONPATH or startup hooks replace the image's; ours goes back in front."""
    # The entrypoint has put the guard in front, and behind it the launcher, which nobody else needs.
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != _HERE]
    environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    hooks = [hook.strip() for hook in environment.get("LITELLM_WORKER_STARTUP_HOOKS", "").split(",") if hook.strip()]
    if _STARTUP_HOOK not in hooks:
        environment["LITELLM_WORKER_STARTUP_HOOKS"] = ",".join([_STARTUP_HOOK, *hooks])


def _say(plan: Plan, config: str) -> None:
    settings = plan.settings
    mode = "blocking" if settings.sync_mode else "watching only (SYNC_MODE=false)"
    print(
        f"guarded-litellm: starting | config={config} | callback={CALLBACK} | mode={mode}"
        f" | without a verdict={settings.unreachable_fallback} | collection={settings.default_collection}",
        file=sys.stderr,
    )


def hand_over(arguments: Arguments) -> NoReturn:
    """Replaces this process by the base image's entrypoint."""
    if _UNIFIED_ENTRYPOINT.exists():
        entrypoint, words = _UNIFIED_ENTRYPOINT, arguments.as_given()
    else:
        entrypoint, words = _OLDER_ENTRYPOINT, arguments.for_older_base()
    sys.stderr.flush()
    os.execv(entrypoint, [str(entrypoint), *words])  # noqa: S606 - the base image's own script, arguments as given


if __name__ == "__main__":
    main(sys.argv[1:])
