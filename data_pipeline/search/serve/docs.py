"""A page that describes the service by its OpenAPI document, without scripts or files of other hosts."""

import html
from typing import Any

_STYLE = "body{font:16px system-ui;max-width:60em;margin:2em auto;padding:0 1em}td,th{text-align:left;padding:.2em 1em}"


def docs_page(schema: dict[str, Any]) -> str:
    """Returns the HTML page of an OpenAPI document: the operations with their parameters and fields."""
    about = schema["info"]
    parts = [
        f"<!doctype html><html lang='en'><title>{_text(about['title'])}</title><style>{_STYLE}</style>",
        f"<h1>{_text(about['title'])} {_text(about['version'])}</h1><p>{_text(about['description'])}</p>",
        "<p>Machine-readable: <a href='openapi.json'>openapi.json</a>.</p>",
    ]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts.append(f"<h2>{method.upper()} {_text(path)}</h2><p>{_text(operation.get('description', ''))}</p>")
            content = next(iter(operation.get("requestBody", {}).get("content", {}).items()), None)
            fields = [(each["name"], each["schema"], each["required"]) for each in operation.get("parameters", [])]
            if content is not None:
                body = _resolved(content[1]["schema"], schema)
                parts.append(f"<p>Body: {_text(content[0])}</p>")
                required = body.get("required", [])
                fields += [(name, field, name in required) for name, field in body["properties"].items()]
            if fields:
                rows = "".join(_row(*field) for field in fields)
                parts.append(f"<table><tr><th>field<th>type<th>default<th>description</tr>{rows}</table>")
    return "".join(parts)


def _row(name: str, field: dict[str, Any], is_required: bool) -> str:
    kinds = [kind["type"] for kind in field.get("anyOf", [field]) if kind.get("type") not in (None, "null")]
    default = "required" if is_required else "" if field.get("default") is None else str(field["default"])
    cells = (name, " or ".join(kinds), default, field.get("description", ""))
    return "<tr>" + "".join(f"<td>{_text(cell)}" for cell in cells) + "</tr>"


def _resolved(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    name = field.get("$ref", "").rpartition("/")[2]
    return schema["components"]["schemas"][name] if name else field


def _text(value: str) -> str:
    return html.escape(value)
