"""Answers of what finds and keeps documents: reranking, web search, vector stores, files."""

from __future__ import annotations

from collections.abc import Callable

from mock_llm.said import SAID
from mock_llm.shapes import Body


def rerank(body: Body) -> Body:
    results = [{"index": index, "relevance_score": 0.5} for index, _ in enumerate(body["documents"])]
    return {"id": "rerank-mock", "results": results, "meta": {"billed_units": {"search_units": 1}}}


def web_search(body: Body) -> Body:
    found = {"title": "A page", "url": "https://example.com", "content": SAID.text, "score": 0.5}
    return {"query": body["query"], "results": [found]}


def vector_store(body: Body) -> Body:
    counts = {"in_progress": 0, "completed": 1, "failed": 0, "cancelled": 0, "total": 1}
    head = {"id": "vs_mock", "object": "vector_store", "created_at": 1767225600, "status": "completed"}
    return {**head, "name": body.get("name") or "mock", "bytes": 1, "file_counts": counts}


def vector_store_search(body: Body) -> Body:
    content = [{"type": "text", "text": SAID.text}]
    found = {"file_id": "file-mock", "filename": "a.txt", "score": 0.5, "attributes": {}, "content": content}
    return {
        "object": "vector_store.search_results.page",
        "search_query": body["query"],
        "data": [found],
        "has_more": False,
        "next_page": None,
    }


def vector_store_file(_: Body) -> Body:
    head = {"id": "file-mock", "object": "vector_store.file", "created_at": 1767225600, "vector_store_id": "vs_mock"}
    return {**head, "status": "completed", "usage_bytes": 1, "last_error": None}


def uploaded_file(body: Body) -> Body:
    head = {"id": "file-mock", "object": "file", "created_at": 1767225600, "status": "processed"}
    return {**head, "bytes": len(body.get("file", "")), "filename": "a.txt", "purpose": body.get("purpose", "batch")}


ANSWERS: dict[str, Callable[[Body], Body]] = {
    "(?:v2/)?rerank": rerank,
    "search": web_search,
    "vector_stores": vector_store,
    "vector_stores/[^/]+/search": vector_store_search,
    "vector_stores/[^/]+/files(?:/[^/]+)?": vector_store_file,
    "files(?:/[^/]+)?": uploaded_file,
}
