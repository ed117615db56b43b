"""`docker run IMAGE doctor [--config FILE] [--json]`: looks at everything a start needs, and starts nothing.

Prints one line for each check, with a fix where one failed; `--json` prints the same as one object. Exit status: 0 when
the proxy would start guarded, 78 when its configuration is wrong, 1 when something else is (Akto, its token, the
callback). In a running container: `docker exec CONTAINER /opt/akto/entrypoint.sh doctor --config FILE`.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal, NoReturn

import yaml

from akto_guardrails.problem import Problem
from akto_guardrails.reporter import reports, reports_directory
from akto_guardrails.settings import Settings, SettingsError, load_settings
from akto_guardrails.spool import left_by_others
from launcher.arguments import Arguments, parse
from launcher.config import CALLBACK, ConfigError, Source
from launcher.notices import notices_of
from launcher.preflight import NotReady, load_dot_env, read_config, reason_without_file, temporary_directory
from launcher.probe import Access, Answer, ask, problem_of, proxy_of

EX_CONFIG: Final = 78
# Sessions and records carry times; certificates are judged by the clock.
_MOST_SECONDS_APART: Final = 60.0

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check. `fix` is empty where nothing needs one; `diff`: lines of a unified diff."""

    check: str
    status: Status
    what: str
    fix: str = ""
    diff: tuple[str, ...] = ()


def main(command_line: Sequence[str]) -> NoReturn:
    """Looks, prints and exits."""
    as_json = "--json" in command_line
    arguments = parse([word for word in command_line if word != "--json"])
    findings = list(examine(arguments, os.environ))
    status = exit_status(findings)
    print(as_object(findings, status) if as_json else as_text(findings))
    sys.stdout.flush()
    # LiteLLM leaves threads behind when it is only imported.
    os._exit(status)


def examine(arguments: Arguments, environment: Mapping[str, str]) -> Iterator[Finding]:
    """Every check, in the order in which a start would meet what it is about."""
    try:
        load_dot_env()
    except NotReady as error:
        yield from (_failed("variables", problem) for problem in error.problems)
    settings: Settings | None = None
    try:
        settings = load_settings(environment)
        yield Finding("variables", "ok", _modes(settings))
    except SettingsError as error:
        yield from (_failed("variables", problem) for problem in error.problems)
    yield from _config(arguments, environment)
    yield from _temporary(environment)
    if settings is None:
        for check in ("records", "callback", "akto", "token", "clock", "proxy"):
            yield Finding(check, "skipped", "the variables come first")
        return
    yield _records(settings)
    yield _callback()
    yield from _akto(settings, environment)


def exit_status(findings: Sequence[Finding]) -> int:
    """0, 1 or 78."""
    failed = {finding.check for finding in findings if finding.status == "failed"}
    if failed & {"variables", "config", "temporary files"}:
        return EX_CONFIG
    return 1 if failed else 0


def as_text(findings: Sequence[Finding]) -> str:
    """A list for people."""
    lines: list[str] = []
    for finding in findings:
        lines.append(f"{finding.status:8} {finding.check:16} {finding.what}")
        if finding.fix:
            lines.append(f"{'':25} -> {finding.fix}")
        lines += [f"{'':25} {line}" for line in finding.diff]
    counts = {status: sum(finding.status == status for finding in findings) for status in ("failed", "warning")}
    lines.append(f"{counts['failed']} failed, {counts['warning']} warnings")
    return "\n".join(lines)


def as_object(findings: Sequence[Finding], status: int) -> str:
    """The same for programs."""
    return json.dumps({"exit_status": status, "checks": [asdict(finding) for finding in findings]}, indent=2)


def _failed(check: str, problem: Problem) -> Finding:
    return Finding(check, "failed", problem.what, problem.fix)


def _modes(settings: Settings) -> str:
    mode = "blocking" if settings.sync_mode else "watching only (SYNC_MODE=false)"
    return f"{mode}, without a verdict {settings.unreachable_fallback}, collection {settings.default_collection}"


def _config(arguments: Arguments, environment: Mapping[str, str]) -> Iterator[Finding]:
    without_file = reason_without_file(arguments, environment)
    if without_file is not None:
        yield Finding("config", "ok", f"{without_file}; guarded in each worker")
        return
    try:
        source, config = read_config(arguments, environment)
    except NotReady as error:
        yield from (_failed("config", problem) for problem in error.problems)
        return
    where = "none given, one would be generated" if source.path is None else str(source.path)
    yield Finding("config", "ok", f"{where}; this would be changed in a private copy:", diff=_diff(source, config))
    for notice in notices_of(source):
        yield Finding("config", "warning", notice.what, notice.fix)


def _diff(source: Source, config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the injection changes; without lines around it, which may hold secrets."""
    before, after = (yaml.safe_dump(dict(each), sort_keys=False).splitlines() for each in (source.content, config))
    return tuple(difflib.unified_diff(before, after, "config", "injected", n=0, lineterm=""))


def _temporary(environment: Mapping[str, str]) -> Iterator[Finding]:
    """The directory for temporary files, and what workers that are running have reported there."""
    try:
        directory = temporary_directory(environment)
    except ConfigError as error:
        yield _failed("temporary files", Problem(error.what, error.fix))
        return
    yield Finding("temporary files", "ok", f"in {directory}")
    for report in reports(reports_directory(str(directory))):
        minutes = (time.time() - report["since"]) / 60
        counts = ", ".join(f"{name}={count}" for name, count in report["counters"].items())
        yield Finding(f"worker {report['pid']}", "ok", f"for {minutes:.0f} min: {counts}")


def _records(settings: Settings) -> Finding:
    directory = settings.spool_directory
    if directory is None:
        return Finding("records", "ok", "wait in memory alone (no SPOOL_DIR)")
    problem = left_by_others(directory)
    if problem is not None:
        return Finding("records", "warning", problem.what, problem.fix)
    return Finding("records", "ok", f"may wait on disk in {directory}")


def _callback() -> Finding:
    # Only looked at: a spool would take over what other workers left, and nothing is to be fetched from the internet.
    for name in ("SPOOL_DIR", "SPOOL_DIR_FILE"):
        os.environ.pop(name, None)
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    logging.disable(logging.CRITICAL)
    try:
        from akto_guardrails.worker_startup import ensure_guarded

        # What each worker does before it serves.
        ensure_guarded()
        release = importlib.metadata.version("litellm")
    except Exception as error:  # noqa: BLE001 - whatever stops the import would stop each worker
        what = f"The guard cannot be loaded by this LiteLLM: {type(error).__name__}: {error}"
        return Finding("callback", "failed", what, "Use a supported release as the base, see the README.")
    return Finding("callback", "ok", f"{CALLBACK} loads in LiteLLM {release}")


def _akto(settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    answer = ask(settings, environment)
    problem = problem_of(answer, settings)
    secure = "over TLS" if settings.service_url.startswith("https:") else "in plain text (http)"
    if answer.access is Access.UNREACHABLE and problem is not None:
        yield _failed("akto", problem)
        yield Finding("token", "skipped", "Akto comes first")
    else:
        yield Finding("akto", "ok", f"answers {secure}")
        yield _token(answer, problem)
    yield _clock(answer)
    proxy = proxy_of(settings)
    yield Finding("proxy", "ok", f"{proxy} is on the way to Akto" if proxy else "none on the way to Akto")


def _token(answer: Answer, problem: Problem | None) -> Finding:
    if problem is None:
        return Finding("token", "ok", answer.detail)
    status: Status = "failed" if answer.access is Access.DENIED else "warning"
    return Finding("token", status, problem.what, problem.fix)


def _clock(answer: Answer) -> Finding:
    try:
        there = parsedate_to_datetime(answer.date or "")
    except ValueError:
        return Finding("clock", "skipped", "no answer with a time in it")
    apart = abs((datetime.now(UTC) - there.astimezone(UTC)).total_seconds())
    if apart <= _MOST_SECONDS_APART:
        return Finding("clock", "ok", f"within {_MOST_SECONDS_APART:.0f} s of Akto's")
    what = f"The clocks of this machine and of Akto are {apart:.0f} s apart: records are filed under the wrong time."
    return Finding("clock", "warning", what, "Set this machine's clock (NTP).")


if __name__ == "__main__":
    main(sys.argv[1:])
