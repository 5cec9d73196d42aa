"""Makes README.md and values.schema.json of the Helm chart from the comments and defaults of its values.yaml.

Above a field `# -- text` documents it, further lines go on, and `# @schema {…}` narrows what it takes. A mapping that
has fields takes no others, so that a mistyped one is refused by name; an empty one takes any. Run it without arguments
after values.yaml has changed.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHART = Path(__file__).resolve().parent.parent / "deploy/helm/dapo"
_FIELD = re.compile(r"^(?P<indent> *)(?P<name>[A-Za-z][\w.-]*):(?: |$)")
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
_OPEN = ("dashboards.labels", "podAnnotations", "requests", "limits", "podSecurityContext", "policy", "resources")
"""Mappings with defaults that take other fields, too: the ends of their paths."""
COMMON = {
    "affinity": "As in a pod's spec.",
    "annotations": "Of the object.",
    "className": "The class of the Ingress.",
    "digest": "`sha256:…`; counts before the tag.",
    "enabled": "Whether there is one.",
    "env": "Further variables, as in a container's spec.",
    "hostnames": "Names under which REST and the page are reached.",
    "interval": "Between two scrapes.",
    "labels": "Of the object.",
    "limits": "As in a container's spec.",
    "nodeSelector": "As in a pod's spec.",
    "podAnnotations": "Of the pods.",
    "priorityClassName": "As in a pod's spec.",
    "pullPolicy": "When a node pulls images.",
    "repository": "Of the image, below the registry.",
    "requests": "As in a container's spec.",
    "resourceClaims": "Claims of devices (DRA), as in a pod's spec.",
    "resources": "Requests and limits of the container.",
    "runtimeClassName": "As in a pod's spec.",
    "schedulerName": "As in a pod's spec.",
    "securityContext": "Over the container's security context.",
    "shmSize": "Of /dev/shm.",
    "size": "Of the volume.",
    "tag": "Of the image; default: the chart's appVersion.",
    "terminationGracePeriodSeconds": "Seconds to end in order.",
    "tolerations": "As in a pod's spec.",
    "topologySpreadConstraints": "As in a pod's spec.",
    "type": "Of the Service.",
}
"""What fields of these names mean where nothing else is said."""
_HEAD = """# The chart of dapo

Made from `values.yaml` by `python scripts/chart_docs.py`. How to install and run it stands in
[docs/kubernetes.md](../../../docs/kubernetes.md); examples of values are in [examples](examples).

| value | default | meaning |
|---|---|---|
"""


class Field(NamedTuple):
    path: tuple[str, ...]
    text: str
    """What it means; "" where it speaks for itself."""
    narrowing: dict[str, Any]


def fields(text: str) -> Iterator[Field]:
    """Every field of values.yaml that stands on a line of its own, in order."""
    path: list[tuple[int, str]] = []
    words: list[str] = []
    narrowing: dict[str, Any] = {}
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# @schema "):
            narrowing = yaml.safe_load(stripped.removeprefix("# @schema "))
        elif stripped.startswith("# -- "):
            words = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and words:
            words.append(stripped.removeprefix("# "))
        elif found := _FIELD.match(line):
            indent = len(found["indent"])
            path = [*((at, name) for at, name in path if at < indent), (indent, found["name"])]
            meaning = " ".join(words) or COMMON.get(found["name"], "")
            yield Field(tuple(name for _, name in path), meaning, narrowing)
            words, narrowing = [], {}
        elif not stripped:
            words, narrowing = [], {}


def at(values: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        values = values[name]
    return values


def schema(text: str) -> dict[str, Any]:
    """The JSON schema that Helm checks values with."""
    values = yaml.safe_load(text)
    documented = {field.path: field for field in fields(text)}
    found = _schema(values, (), documented)
    found["properties"]["global"] = {"type": "object", "description": "Of a chart that this one is part of; not read."}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart dapo", **found}


def _schema(value: Any, path: tuple[str, ...], documented: dict[tuple[str, ...], Field]) -> dict[str, Any]:
    found: dict[str, Any] = {} if value is None else {"type": _TYPES[type(value)]}
    field = documented.get(path)
    if field is not None and field.text:
        found["description"] = field.text
    if isinstance(value, dict) and value:
        inner = {name: one for name, one in value.items() if (*path, name) in documented}
        if inner:
            found["properties"] = {name: _schema(one, (*path, name), documented) for name, one in inner.items()}
        if not ".".join(path).endswith(_OPEN):
            found["additionalProperties"] = False
    return found | (field.narrowing if field is not None else {})


def readme(text: str) -> str:
    values, documented, rows = yaml.safe_load(text), list(fields(text)), []
    for field in documented:
        value = at(values, field.path)
        if isinstance(value, dict) and value and not field.text:
            continue
        inner = any(one.path[:-1] == field.path for one in documented)
        default = "" if inner else f"`{json.dumps(value, ensure_ascii=False)}`"
        rows.append(f"| `{'.'.join(field.path)}` | {default} | {field.text} |")
    return _HEAD + "\n".join(rows) + "\n"


def generated(chart: Path = CHART) -> dict[Path, str]:
    """Each file that is made, with what it has to say."""
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    return {
        chart / "README.md": readme(text),
        chart / "values.schema.json": json.dumps(schema(text), indent=2, ensure_ascii=False) + "\n",
    }


if __name__ == "__main__":
    for path, content in generated().items():
        path.write_text(content, encoding="utf-8")
