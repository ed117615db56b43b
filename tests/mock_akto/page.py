"""The page as HTML. Everything in it may come from strangers, so every value goes through `_e`."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from mock_akto.faults import FAULTS
from mock_akto.shown import Count, collections_of, decision_of, readable, shown, unfolded
from mock_akto.state import State

LISTED = 200
BEHAVIOURS = ("block", "alert", "warn")
LONGEST_WORD = 200

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/_mock/page/page.css">
{script}</head>
<body data-run="{run}">
<header>
<h1><a href="/">Mock Akto</a></h1>
<p>A test double: it judges by word lists and protects nothing.</p>
<p id="live" role="status"></p>
</header>
{body}
</body>
</html>
"""

_LIST = """<main>
<section class="collections" aria-labelledby="collections-title">
<h2 id="collections-title">Collections</h2>
<ul id="collections">{collections}</ul>
</section>
<section class="calls" aria-labelledby="calls-title">
<h2 id="calls-title">Calls{of}</h2>
<form method="post" action="/_mock/page/clear"><button>Clear the log</button></form>
<p id="counted">{counted}</p>
<ol id="calls">{rows}</ol>
</section>
<section class="fault" aria-labelledby="fault-title">
<h2 id="fault-title">Fault</h2>
<div id="fault">{fault}</div>
<form method="post" action="/_mock/page/fault">
<label>What goes wrong with checks <select name="fault">{faults}</select></label>
<button>Set</button>
</form>
</section>
<section class="policy" aria-labelledby="policy-title">
<h2 id="policy-title">Policy</h2>
<form method="post" action="/_mock/page/word">
<label>Word or phrase <input name="word" required maxlength="{longest}" autocomplete="off"></label>
<label>Behaviour <select name="behaviour">{behaviours}</select></label>
<label>Reason <input name="reason" value="Forbidden by policy" maxlength="{longest}" autocomplete="off"></label>
<button>Add</button>
</form>
<div id="words">{words}</div>
</section>
</main>"""

_ROW = """<li id="call-{number}"><details data-envelope="/_mock/page/call/{number}"><summary>
<time datetime="{moment}">{clock}</time>
<span class="kind">{kind}</span>
<span class="decision"><b class="{tone}">{label}</b></span>
<span class="what"><b>{collection}</b> <code>{path}</code> {model}</span>
<span class="took">{took}</span>
<span class="said">{reason}{text}</span>
<span class="ids">{ids}</span>
</summary><div class="envelope"><p><a href="/_mock/page/call/{number}">The envelope</a></p></div></details></li>"""

_CALL = """<main class="one"><h2>Call {number}</h2><div id="envelope">
<p>{facts}</p>
<h3>Answered</h3><pre tabindex="0">{answered}</pre>
<h3>Envelope, texts unfolded</h3><pre tabindex="0">{unfolded}</pre>
<details><summary>Envelope as it was sent</summary><pre tabindex="0">{sent}</pre></details>
</div></main>"""


def list_page(state: State, collection: str | None) -> str:
    """The page at `/`, with the calls of one collection alone if one is given."""
    listed = [call for call in state.calls if collection in (None, call["collection"])]
    newest = listed[: -LISTED - 1 : -1]
    newest_only = f", the newest {LISTED} listed" if len(listed) > LISTED else ""
    counted = f"{_number(len(listed), 'call')} kept{newest_only}. Times are UTC."
    if not listed:
        counted = "Nothing yet. Point DATA_INGESTION_SERVICE_URL of a proxy here and send it a request."
    body = _LIST.format(
        collections=_collections(collections_of(state.calls), collection),
        of="" if collection is None else f" of {_e(collection)}",
        counted=counted,
        rows="".join(_row(call) for call in newest),
        words=_words(state),
        longest=LONGEST_WORD,
        behaviours="".join(f"<option>{_e(each)}</option>" for each in BEHAVIOURS),
        fault=_fault(state.fault),
        faults="".join(
            f'<option value="{_e(name)}"{" selected" * (name == state.fault)}>{_e(fault.title)}</option>'
            for name, fault in FAULTS.items()
        ),
    )
    script = '<script src="/_mock/page/page.js" defer></script>\n'
    return _FRAME.format(title="Mock Akto", script=script, run=_e(state.run), body=body)


def call_page(state: State, call: dict[str, Any]) -> str:
    """The page of one call: how it was answered, and its envelope."""
    asked = "&".join(f"{name}={value}" for name, value in call["query"].items())
    answered = {"status": call.get("status"), "milliseconds": call["milliseconds"]}
    answered["guardrailsResult"] = unfolded(call["verdict"] or call.get("scripted"))
    body = _CALL.format(
        number=call["number"],
        facts=f"{_e(call['method'])} <code>/api/http-proxy?{_e(asked)}</code> at {_e(_moment(call))}",
        answered=_json(answered),
        unfolded=_json(unfolded(call["body"])),
        sent=_json(call["body"]),
    )
    return _FRAME.format(title=f"Call {call['number']} - Mock Akto", script="", run=_e(state.run), body=body)


def _collections(counts: Mapping[str, Count], current: str | None) -> str:
    if not counts:
        return "<li>None yet.</li>"
    items = [_collection("/", "All", "", False)] if current is not None else []
    for name, count in counts.items():
        parts = [_number(count.checks, "check"), f"{count.blocked} blocked", _number(count.records, "record")]
        items.append(_collection(f"/?collection={quote(name)}", name, ", ".join(parts), name == current))
    return "".join(items)


def _collection(address: str, title: str, counted: str, is_current: bool) -> str:
    mark = ' aria-current="page"' if is_current else ""
    return f'<li><a href="{_e(address)}"{mark}>{_e(title)}</a> {_e(counted)}</li>'


def _row(call: dict[str, Any]) -> str:
    facts, decision = shown(call), decision_of(call)
    ids = [f"{name} {_e(value)}" for name, value in (("session", facts.session), ("call", facts.call_id)) if value]
    return _ROW.format(
        number=call["number"],
        moment=_e(_moment(call)),
        clock=_e(_moment(call)[11:23]),
        kind=_e(call["kind"]),
        tone=_e(decision.tone),
        label=_e(decision.label),
        collection=_e(facts.collection),
        path=_e(facts.path),
        model=_e(facts.model),
        took="" if call["milliseconds"] is None else f"{call['milliseconds']:,} ms",
        reason=f"<em>{_e(decision.reason)}</em> " if decision.reason else "",
        text=f"<q>{_e(facts.text)}</q>" if facts.text else "",
        ids=" ".join(f"<span>{each}</span>" for each in ids),
    )


def _words(state: State) -> str:
    items = "".join(
        f"<li><div><b>{_e(readable(word))}</b> {_e(behaviour or 'no behaviour')}: {_e(readable(reason))}</div>"
        f"{_button('word/remove', 'Remove', word=word)}</li>"
        for word, (behaviour, reason) in state.policy.words.items()
    )
    masks = " ".join(f"<code>{_e(mask)}</code>" for mask in state.policy.masks.values())
    return f"<ul>{items}</ul><p>Card numbers are masked: {masks}</p>{_sessions(len(state.policy.malicious_sessions))}"


def _sessions(blocked: int) -> str:
    if not blocked:
        return ""
    stay = "stays" if blocked == 1 else "stay"
    return f'<div class="line">{_number(blocked, "session")} {stay} blocked. {_button("unblock", "Unblock")}</div>'


def _fault(name: str) -> str:
    if not name:
        return "<p>None: checks are answered as usual.</p>"
    return (
        f'<div class="line"><b class="fault">{_e(FAULTS[name].title)}</b> {_button("fault", "End it", fault="")}</div>'
    )


def _button(action: str, title: str, **values: str) -> str:
    hidden = "".join(f'<input type="hidden" name="{_e(name)}" value="{_e(each)}">' for name, each in values.items())
    label = f' aria-label="{_e(title)} {_e(readable(values["word"]))}"' if "word" in values else ""
    return f'<form method="post" action="/_mock/page/{_e(action)}">{hidden}<button{label}>{_e(title)}</button></form>'


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, indent=2, ensure_ascii=False)
    except RecursionError:
        return "nested too deeply to be shown"
    return _e(readable(text))


def _moment(call: dict[str, Any]) -> str:
    return datetime.fromtimestamp(call["at"], UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(count: int, of: str) -> str:
    return f"{count:,} {of}" if count == 1 else f"{count:,} {of}s"


def _e(text: str) -> str:
    return html.escape(text)
