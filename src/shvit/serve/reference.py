"""The API's reference as one plain page: nothing is loaded from elsewhere, nothing runs in the browser."""

from __future__ import annotations

from html import escape
from typing import Any

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; }
:root { color-scheme: light dark; }
code { font: 14px ui-monospace, monospace; }
h2 { margin-top: 2rem; border-top: 1px solid; padding-top: 1rem; font-size: 1.1rem; }
td { padding: 0 1rem 0 0; vertical-align: top; }
"""


def reference_page(schema: dict[str, Any]) -> str:
    """An OpenAPI description as HTML."""
    sections = "\n".join(
        _operation(method, path, operation)
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    )
    info = schema["info"]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>\n'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>\n<p>{escape(info['description'])}</p>\n"
        '<p>For programs: <a href="openapi.json">openapi.json</a></p>\n'
        f"{sections}\n</body></html>\n"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [(f"{each['in']}: {each['name']}", each.get("description", "")) for each in operation.get("parameters", ())]
    rows += [("body", kind) for kind in operation.get("requestBody", {}).get("content", ())]
    rows += [(status, answer["description"]) for status, answer in operation["responses"].items()]
    table = "".join(f"<tr><td><code>{escape(name)}</code><td>{escape(text)}" for name, text in rows)
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['summary'])}</p>"
        f"<table>{table}</table>"
    )
