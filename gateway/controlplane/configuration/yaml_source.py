"""Which values does a YAML text hold, in which line does each stand, and how is one written?

The JSON subset of YAML as YAML 1.2 reads it: `on` and `off` are words, only true and false
are truth, no sexagesimal numbers, no dates, no tags. Anchors, aliases and merge keys work,
within a bound on what they expand to. A key that stands twice is an error, not a surprise.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from gateway.core.faults import pointer

MAX_BYTES = 8 << 20
MAX_DEPTH = 32
MAX_NODES = 500_000
MAX_EXPANSION = 10  # values per character of the text, beyond some that any text may have

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
# What YAML 1.1 makes of a plain scalar; we read it again by the rules of YAML 1.2.
_COLLECTIONS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_KINDS = {"str", "int", "float", "bool", "null", "timestamp", "merge", "value"}


class YamlError(ValueError):
    """One thing that is wrong with the text, at `line` (from 1), below `pointer`."""

    def __init__(self, line: int, detail: str, where: str = "") -> None:
        super().__init__(f"line {line}: {detail}")
        self.line = line
        self.detail = detail
        self.pointer = where


@dataclass(slots=True)
class Source:
    """`value` as JSON would hold it, the line of every pointer in it, and what was wrong."""

    value: Any = None
    lines: dict[str, int] = field(default_factory=dict)
    errors: list[YamlError] = field(default_factory=list)
    nodes_left: int = MAX_NODES

    def line(self, where: str) -> int:
        """The line of `where`, or of the nearest thing around it; 1 at worst."""
        while where not in self.lines and where:
            where = where.rpartition("/")[0]
        return self.lines.get(where, 1)


def read(text: str) -> Source:
    """What `text` holds. Raises YamlError where it cannot be read on; all else is in `errors`."""
    if len(text) > MAX_BYTES:
        raise YamlError(1, f"the file is larger than {MAX_BYTES >> 20} MiB")
    source = Source(nodes_left=min(MAX_NODES, 1000 + MAX_EXPANSION * len(text)))
    try:
        _check_events(text)
        root = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(mark.line + 1 if mark else 1, _words(error, text)) from None
    except yaml.YAMLError as error:  # a character that YAML knows nothing of
        line = text.encode()[: getattr(error, "position", 0)].count(b"\n") + 1
        raise YamlError(line, f"not YAML: {str(error).splitlines()[0]}") from None
    if root is not None:
        source.value = _value(root, (), source)
    return source


def written(value: Any) -> str:
    """`value`, as JSON would hold it, as YAML that `read` and a program of YAML 1.1 read alike."""
    said: dict[str, Any] = {"sort_keys": False, "allow_unicode": True, "width": 1 << 30}
    text: str = yaml.dump(value, Dumper=_Dumper, **said)
    return text


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _quoted_where_needed(dumper: Any, text: str) -> yaml.ScalarNode:
    # What YAML 1.1 takes for something else than text the dumper quotes by itself.
    is_other = text in _WORDS or any(p.fullmatch(text) for p in (_INT, _FLOAT, _NOT_FINITE))
    style = "'" if is_other else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)  # type: ignore[no-any-return]


_Dumper.add_representer(str, _quoted_where_needed)


def _words(error: yaml.MarkedYAMLError, text: str) -> str:
    problem = error.problem or "cannot be read"
    lines = text.split("\n")
    line = error.problem_mark.line if error.problem_mark else len(lines)
    indent = re.match(r"\s*", lines[line]) if line < len(lines) else None
    if indent and "\t" in indent[0]:
        return "not YAML: indent with spaces, not with tabs"
    if problem == "found undefined alias" and line < len(lines):
        assert error.problem_mark is not None
        return f"not YAML: {problem} {lines[line][error.problem_mark.column :].split()[0]}"
    context = error.context or ""
    if context and error.context_mark and error.context_mark.line != line:
        context += f" that begins in line {error.context_mark.line + 1}"
    return f"not YAML: {problem}{f' ({context})' if context else ''}"


def _check_events(text: str) -> None:
    """Bounds depth before anything recursive sees the text, and allows one document."""
    depth = documents = 0
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise YamlError(_line(event), f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise YamlError(_line(event), "a file holds one document")


def _value(node: yaml.Node, at: tuple[str | int, ...], source: Source) -> Any:
    source.nodes_left -= 1
    line = node.start_mark.line + 1
    if source.nodes_left < 0 or len(at) > MAX_DEPTH:
        raise YamlError(line, "the aliases expand to too much")
    source.lines.setdefault(pointer(*at), line)
    if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
        _refuse(node, at, source, f"the tag {node.tag!r} is not understood")
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, at, source)
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*at, index), source) for index, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)
    return _scalar(node, at, source)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _mapping(node: yaml.MappingNode, at: tuple[str | int, ...], source: Source) -> dict[str, Any]:
    said: dict[str, Any] = {}
    merged: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            source.errors.append(YamlError(line, "a key must be plain text", pointer(*at)))
            continue
        key = _ON if _was_on(key_node, at) else key_node.value
        if key == "<<" and not key_node.style:
            merged = {**_merged(value_node, at, source), **merged}
            continue
        where = pointer(*at, key)
        if key in said:
            first = source.lines.get(where, line)
            detail = f"the key {key!r} stands twice, first in line {first}"
            source.errors.append(YamlError(line, detail, where))
            continue
        source.lines[where] = line
        said[key] = _value(value_node, (*at, key), source)
    return {**merged, **said}


_ON = "on"


def _was_on(key: yaml.ScalarNode, at: tuple[str | int, ...]) -> bool:
    """Whether the key was `retries.on` before a YAML 1.1 program read and wrote the file.

    Such a program takes a plain `on` for the truth, and writes `true`.
    """
    return key.value == "true" and not key.style and at[-1:] == ("retries",)


def _merged(node: yaml.Node, at: tuple[str | int, ...], source: Source) -> dict[str, Any]:
    """What `<<` brings in: a mapping, or several of which the first wins."""
    nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
    merged: dict[str, Any] = {}
    for each in nodes:
        if not isinstance(each, yaml.MappingNode):
            line = each.start_mark.line + 1
            source.errors.append(YamlError(line, "<< needs a mapping", pointer(*at)))
            continue
        merged = {**_mapping(each, (*at, "<<"), source), **merged}
    return merged


def _scalar(node: yaml.ScalarNode, at: tuple[str | int, ...], source: Source) -> Any:
    text: str = node.value
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in _KINDS:
        _refuse(node, at, source, f"the tag {node.tag!r} is not understood")
        return text
    said_to_be_text = kind == "str" and _INT.fullmatch(text)
    return text if node.style or said_to_be_text else _plain(text, node, at, source)


def _plain(text: str, node: yaml.Node, at: tuple[str | int, ...], source: Source) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) <= 100:
        return int(text)
    if _NOT_FINITE.fullmatch(text):
        _refuse(node, at, source, f"{text} is not a finite number")
        return None
    if _FLOAT.fullmatch(text):
        number = float(text)
        if not math.isfinite(number):
            _refuse(node, at, source, "the number is too large")
        return number
    return text


def _refuse(node: yaml.Node, at: tuple[str | int, ...], source: Source, detail: str) -> None:
    source.errors.append(YamlError(node.start_mark.line + 1, detail, pointer(*at)))
