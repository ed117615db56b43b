"""Answers about images, sound, video and scanned documents."""

from __future__ import annotations

from collections.abc import Callable

from mock_llm.said import SAID
from mock_llm.shapes import Body


def image(_: Body) -> Body:
    return {"created": 1767225600, "data": [{"b64_json": "iVBORw0KGgo="}]}


def speech(_: Body) -> bytes:
    return b"ID3 the sound of a mock"


def transcription(_: Body) -> Body:
    return {"text": SAID.text}


def video(body: Body) -> Body:
    head = {"id": "video_mock", "object": "video", "created_at": 1767225600, "status": "queued", "progress": 0}
    return {**head, "model": body["model"], "seconds": "4", "size": "720x1280"}


def ocr(body: Body) -> Body:
    page = {"index": 0, "markdown": SAID.text, "images": [], "dimensions": {"dpi": 200, "height": 2200, "width": 1700}}
    return {"pages": [page], "model": body["model"], "usage_info": {"pages_processed": 1, "doc_size_bytes": None}}


ANSWERS: dict[str, Callable[[Body], Body | bytes]] = {
    "images/generations": image,
    "images/edits": image,
    "audio/speech": speech,
    "audio/transcriptions": transcription,
    "videos": video,
    "ocr": ocr,
}
