"""The second layer: a worker runs exactly one guard, or it does not start.

The image sets `LITELLM_WORKER_STARTUP_HOOKS` to `ensure_guarded`, which LiteLLM runs in every worker before it loads
a config, from whatever source. So a pod whose `command:` skips the entrypoint is guarded too.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine, MutableSequence
from typing import Any, Final

from akto_guardrails.asgi import guarded_application
from akto_guardrails.log import log_as

# Imported by the proxy's own module.
_BATCH_FILES: Final = "litellm.proxy.openai_files_endpoints.files_endpoints"
_GUARD_CLASS: Final = "GuardrailsHandler"
# Runs before LiteLLM's own shutdown event, and waits for everybody's log callbacks: 20 seconds by default (1.110).
_DRAIN: Final = "_flush_spend_around_logging_drain_on_shutdown"
# For LiteLLM's own log events, from which some records are made.
_LOG_EVENT_SECONDS: Final = 2.0

_log: Final = logging.getLogger(__name__)


class NotGuarded(RuntimeError):
    """The worker would serve without the guard."""


def ensure_guarded() -> None:
    """Registers the guard in this worker, whatever the config says, and closes it when the worker stops.

    Five things of LiteLLM are wrapped, seen on 1.106.2: `ProxyLogging.startup_event`, which runs once in each worker,
    after the config was loaded or not and before callbacks are put to use; `proxy_server.proxy_shutdown_event`, which
    runs on the live event loop after open requests have drained (no hook of a callback is called then); on 1.110.2 what
    comes before that; what reads batch files for the hooks (`batch_lines.py`); and the application itself. Raises
    `SettingsError` or `NotGuarded`, on which LiteLLM does not start the worker.
    """
    if _is_collector():
        return
    import litellm
    from litellm.proxy import proxy_server

    from akto_guardrails import proxy_handler_instance as guard

    def before_callbacks_are_used() -> None:
        if getattr(litellm, "json_logs", False):
            from litellm._logging import JsonFormatter

            log_as(JsonFormatter())
        keep_one_guard(litellm.callbacks, guard)
        # Unset, and known to this release.
        if guard.keep_alive_seconds and getattr(litellm, "sse_keepalive_ping_interval_seconds", 0) is None:
            litellm.sse_keepalive_ping_interval_seconds = guard.keep_alive_seconds
        guard.start(has_metrics=any(getattr(route, "path", None) == "/metrics" for route in proxy_server.app.routes))

    closing: asyncio.Task[None] | None = None

    async def close() -> None:
        nonlocal closing
        if closing is None:
            closing = asyncio.create_task(_close(guard))
        await asyncio.shield(closing)

    proxy_logging = proxy_server.proxy_logging_obj
    if not callable(getattr(proxy_logging, "startup_event", None)):
        raise NotGuarded("this LiteLLM release has no ProxyLogging.startup_event: the guard cannot be ensured")
    proxy_logging.startup_event = _preceded_by(before_callbacks_are_used, proxy_logging.startup_event)
    _put_layer_around(proxy_server.app, guard.admits)
    if guard.may_refuse:
        _have_batch_lines_whole(sys.modules.get(_BATCH_FILES))
    proxy_server.proxy_shutdown_event = _followed_by(close, proxy_server.proxy_shutdown_event)
    if hasattr(proxy_server, _DRAIN):
        setattr(proxy_server, _DRAIN, _beside(close, getattr(proxy_server, _DRAIN)))


def _have_batch_lines_whole(batch_files: Any) -> None:
    # Releases before 1.100 show no hook what is in such files.
    if hasattr(batch_files, "scan_batch_input_file"):
        from akto_guardrails.batch_lines import whole_lines_alone

        batch_files.scan_batch_input_file = whole_lines_alone(batch_files.scan_batch_input_file)


def _put_layer_around(app: Any, admits: Callable[[str], bool]) -> None:
    """Puts the ASGI layer around LiteLLM's application, which Starlette has built by now and would not extend.

    Starlette (1.0, and 0.4x before it) looks `middleware_stack` up on every call.
    """
    if app.middleware_stack is None:
        app.middleware_stack = app.build_middleware_stack()
    app.middleware_stack = guarded_application(app.middleware_stack, admits, _roots())


def _roots() -> tuple[str, ...]:
    """The prefixes of SERVER_ROOT_PATHS, which LiteLLM takes off behind the layer; the longest first."""
    try:
        from litellm.proxy.middleware.per_request_root_path_middleware import get_server_root_paths
    except ImportError:
        # Not on 1.96.2: there is SERVER_ROOT_PATH alone, which stands in the scope already.
        return ()
    roots: tuple[str, ...] = get_server_root_paths()
    return roots


def keep_one_guard(callbacks: MutableSequence[Any], guard: object) -> None:
    """Leaves exactly one guard in `callbacks`, `guard`, and puts it first; everything else keeps its order.

    Guards are told by the name of their class, not by identity: LiteLLM loads a file beside the config as a module
    of its own, and Akto's published file has a class of that name too.
    """
    others = [callback for callback in callbacks if type(callback).__name__ != _GUARD_CLASS]
    removed = len(callbacks) - len(others) - sum(callback is guard for callback in callbacks)
    if removed > 0:
        _log.warning(
            "%d further guard(s) found among the callbacks and removed (class %s): each request is checked once. "
            "If one is your own, give its class another name",
            removed,
            _GUARD_CLASS,
        )
    callbacks[:] = [guard, *others]


def _is_collector() -> bool:
    """Whether this is LiteLLM's spend collector: it starts the proxy's application as well, but serves no model."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "litellm.proxy.collector"


def _preceded_by(first: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        first()
        return function(*args, **kwargs)

    return wrapper


async def _close(guard: Any) -> None:
    await _finish_log_events()
    try:
        await guard.close()
    except Exception as error:  # noqa: BLE001 - LiteLLM has more to do at its stop
        _log.warning("the guard could not be closed: %s", type(error).__name__)


async def _finish_log_events() -> None:
    """Lets LiteLLM's queue of log events run empty: at a stop it would be thrown away (seen on 1.106.2)."""
    try:
        async with asyncio.timeout(_LOG_EVENT_SECONDS):
            await _drain_log_events()
    except Exception as error:  # noqa: BLE001 - whatever keeps them back, the records there are have to be delivered
        _log.warning("LiteLLM's log events were not all finished: %s", type(error).__name__)


async def _drain_log_events() -> None:
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER
    from litellm.responses import streaming_iterator

    # Before 1.110 no log event is on its way into the queue when requests have drained.
    drain = getattr(streaming_iterator, "drain_logging_tasks", None)
    if drain is not None:
        await drain(_LOG_EVENT_SECONDS / 2)
    await GLOBAL_LOGGING_WORKER.flush()


def _beside(
    other: Callable[[], Coroutine[Any, Any, None]], function: Callable[..., Awaitable[None]]
) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        task = asyncio.create_task(other())
        try:
            await function(*args, **kwargs)
        finally:
            await task

    return wrapper


def _followed_by(
    last: Callable[[], Awaitable[None]], function: Callable[..., Awaitable[None]]
) -> Callable[..., Awaitable[None]]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            await function(*args, **kwargs)
        finally:
            await last()

    return wrapper
