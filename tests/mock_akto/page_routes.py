"""The page for people, below `/_mock/page` and, for browsers, at `/`, where the service itself tells its health.

Forms are taken from the page itself alone: whoever has it open may visit other sites as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources
from urllib.parse import urlsplit

from aiohttp import web

from mock_akto.faults import FAULTS
from mock_akto.page import BEHAVIOURS, LONGEST_WORD, call_page, list_page
from mock_akto.state import STATE, State

_MOST_WORDS = 200
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:;"
        " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: forms would come without an origin.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_STATIC = {"page.css": "text/css", "page.js": "text/javascript"}

Form = Mapping[str, str]


def add_page(app: web.Application, *, health: Callable[[web.Request], Awaitable[web.Response]]) -> None:
    """Adds the page; what does not ask for HTML at `/` gets `health`."""

    async def root(request: web.Request) -> web.Response:
        return _list(request) if "text/html" in request.headers.get("Accept", "") else await health(request)

    app.router.add_get("/", root)
    app.router.add_get("/_mock/page/call/{number:[0-9]{1,18}}", _call)
    app.router.add_get("/_mock/page/{name:page[.](css|js)}", _static)
    for path, act in _ACTIONS.items():
        app.router.add_post(f"/_mock/page/{path}", _posted(act))


def _list(request: web.Request) -> web.Response:
    state = request.app[STATE]
    collection = request.query.get("collection")
    about = hashlib.sha256(f"{state.run} {state.changes} {collection}".encode("utf-8", "replace")).hexdigest()
    tag = f'"{about[:32]}"'
    if request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers=_HEADERS | {"ETag": tag})
    return _html(list_page(state, collection), {"ETag": tag})


async def _call(request: web.Request) -> web.Response:
    state = request.app[STATE]
    call = state.calls.find(int(request.match_info["number"]))
    if call is None:
        return web.Response(status=404, text="This call is kept no longer.", headers=_HEADERS)
    return _html(call_page(state, call))


async def _static(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    text = resources.files("mock_akto").joinpath(name).read_text("utf-8")
    return web.Response(text=text, content_type=_STATIC[name], headers=_HEADERS)


def _posted(act: Callable[[State, Form], None]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """A handler that does `act` for a form of the page's own and goes back to the page."""

    async def handler(request: web.Request) -> web.Response:
        if not _is_own(request):
            return web.Response(status=403, text="Only forms of this page are taken.", headers=_HEADERS)
        form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        try:
            act(request.app[STATE], form)
        except ValueError as error:
            return web.Response(status=400, text=str(error), headers=_HEADERS)
        request.app[STATE].changes += 1
        return web.Response(status=303, headers=_HEADERS | {"Location": "/"})

    return handler


def _is_own(request: web.Request) -> bool:
    """Whether the browser says that a form came from here. It tells the site only where there is TLS or localhost."""
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(request.headers.get("Origin", ""))
    return bool(origin.netloc) and origin.netloc == request.host


def _add_word(state: State, form: Form) -> None:
    word, behaviour = form.get("word", "").strip().lower(), form.get("behaviour", "")
    reason = form.get("reason", "").strip() or "Forbidden by policy"
    if not word or max(len(word), len(reason)) > LONGEST_WORD:
        raise ValueError(f"A word has 1 to {LONGEST_WORD} characters, a reason no more than that.")
    if behaviour not in BEHAVIOURS:
        raise ValueError(f"A behaviour is one of {', '.join(BEHAVIOURS)}.")
    if len(state.policy.words) >= _MOST_WORDS and word not in state.policy.words:
        raise ValueError(f"There are {_MOST_WORDS} words already.")
    state.policy.words[word] = (behaviour, reason)


def _remove_word(state: State, form: Form) -> None:
    state.policy.words.pop(form.get("word", ""), None)


def _set_fault(state: State, form: Form) -> None:
    fault = form.get("fault", "")
    if fault and fault not in FAULTS:
        raise ValueError(f"A fault is one of {', '.join(FAULTS)}.")
    state.fault = fault


def _clear(state: State, _: Form) -> None:
    state.calls.clear()


def _unblock(state: State, _: Form) -> None:
    state.policy.malicious_sessions.clear()


_ACTIONS = {
    "word": _add_word,
    "word/remove": _remove_word,
    "fault": _set_fault,
    "clear": _clear,
    "unblock": _unblock,
}


def _html(text: str, headers: Form | None = None) -> web.Response:
    # What cannot be written as UTF-8, half of a surrogate pair, must not cost the page.
    body = text.encode("utf-8", "replace")
    return web.Response(body=body, content_type="text/html", charset="utf-8", headers=_HEADERS | dict(headers or {}))
