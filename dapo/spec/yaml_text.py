"""YAML as specs use it: safe, without repeated keys, and with 1e-6 read as a number as in YAML 1.2."""

import re
from typing import Any

import yaml

from dapo.spec.wording import float_text

_TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"
_FLOAT_TAG = "tag:yaml.org,2002:float"
_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)[eE][-+]?[0-9]+$")
# Line breaks of YAML 1.1 that only double quotes keep.
_UNICODE_BREAK = re.compile("[\x85\u2028\u2029]")
_MOST_VALUES = 100_000
"""With every alias written out: a few lines of aliases of aliases stand for more than any memory holds."""
_NUMBER_STARTS = list("-+.0123456789")


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None):
            raise yaml.composer.ComposerError(None, None, f"a spec has no tags such as {event.tag}", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"`{key.value}` is written twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_float(dumper: yaml.SafeDumper, value: float) -> yaml.ScalarNode:
    mantissa, mark, exponent = float_text(value).partition("e")
    # Readers of YAML 1.1 want a dot in the mantissa and a sign in the exponent.
    text = f"{mantissa if '.' in mantissa else mantissa + '.0'}e{int(exponent):+d}" if mark else mantissa
    return dumper.represent_scalar(_FLOAT_TAG, text)


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    if _UNICODE_BREAK.search(value):
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


def _represent_list(dumper: yaml.SafeDumper, value: list[Any]) -> yaml.SequenceNode:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)


# A spec has no dates: 2026-01-31 is text.
_Loader.yaml_implicit_resolvers = {
    start: [entry for entry in entries if entry[0] != _TIMESTAMP_TAG]
    for start, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(_FLOAT_TAG, _FLOAT, _NUMBER_STARTS)
_Dumper.add_representer(float, _represent_float)
_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(list, _represent_list)


def read_yaml(text: str) -> Any:
    """Raises yaml.YAMLError, RecursionError (nested too deeply) or ValueError (a number that cannot be read)."""
    # A subclass of SafeLoader builds plain data only.
    found = yaml.load(text, Loader=_Loader)
    if (values := _count(found, {})) > _MOST_VALUES:
        raise yaml.YAMLError(f"its aliases (*) stand for {values:.3g} values, and {_MOST_VALUES} may be")
    return found


def _count(value: Any, known: dict[int, float]) -> float:
    """Values with every alias written out; what is written once is counted once. RecursionError for a circle."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, known) for part in parts)
    return known[id(value)]


def write_yaml(tree: dict[str, Any]) -> str:
    """Keys in the order given, an empty line before each section."""
    parts = [
        yaml.dump({key: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**6)
        for key, value in tree.items()
    ]
    sections = [isinstance(value, dict) for value in tree.values()]
    return "".join("\n" + part if section else part for part, section in zip(parts, sections, strict=True)).lstrip("\n")
