"""Declared keys: a YAML file -> checked frozen dataclasses. Each key is declared once, with its type, range, unit and
purpose; from that come the check, the sentence of the error, and the table of keys in the documentation.

YAML is read as version 1.2 by the library that DVC reads it with: a duplicate key is an error, and 1e-4 is a number.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

SHOWN = 10  # names of a list in an error


class UserError(Exception):
    """A mistake that the reader of the message can mend; the command line prints it without a traceback."""


@dataclass(frozen=True)
class Range:
    """The numbers from `low` to `high`; `above` and `below`: without the end itself."""

    low: float
    high: float = sys.float_info.max
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        return (self.low < value if self.above else self.low <= value) and (
            value < self.high if self.below else value <= self.high
        )

    def __str__(self) -> str:
        if self.high == sys.float_info.max:
            return f"above {self.low:,}" if self.above else f"{self.low:,} or more"
        ends = [f"{self.low:,} to {self.high:,}"]
        ends += [f"not {end:,} itself" for end, out in ((self.low, self.above), (self.high, self.below)) if out]
        return ", ".join(ends)


@dataclass(frozen=True)
class Pattern:
    """Text that a regular expression matches as a whole."""

    expression: str
    says: str

    def __contains__(self, value: str) -> bool:
        return re.fullmatch(self.expression, value) is not None

    def __str__(self) -> str:
        return self.says


NAME = Pattern("[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", "letters, digits, '_', '-' and '.', not '-' or '.' at the beginning")
TEXT = Pattern(r"(?s)[^\0]+", "text that is not empty")
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def key(
    about: str,
    accepts: Range | Pattern | tuple[str, ...] | str | None = None,
    unit: str = "",
    default: typing.Any = dataclasses.MISSING,
    hash: bool | None = None,
) -> typing.Any:
    """A key of a block: what it is for, which values it takes (of a list or mapping: each of them), and in which unit.

    A key whose type has `| None` may be null or left out, which is the same; one with a default may be left out. hash:
    False for a mapping, which has none.
    """
    metadata = {"about": about, "accepts": accepts, "unit": unit}
    return dataclasses.field(default=default, hash=hash, metadata=metadata)


def one_of(found: str, accepted: Iterable[str], what: str) -> str:
    """`found`, if it is accepted. Raises UserError with the accepted values and the nearest of them."""
    names = list(accepted)
    if found in names:
        return found
    raise UserError(f"There is no {what} '{short(found)}'; accepted: {listed(names)}.{nearest(found, names)}")


def checked_name(name: str, what: str) -> str:
    """`name`, if it can be part of a path and of a command. Raises UserError."""
    if isinstance(name, str) and name in NAME:
        return name
    raise UserError(f"'{short(name)}' cannot be the name of a {what}; accepted: {NAME}.")


def listed(names: Iterable[str]) -> str:
    """The names with commas, cut after ten."""
    names = [str(name) for name in names]
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) or "none"


def nearest(found: object, names: Iterable[str], prefix: str = "") -> str:
    """' Did you mean ...?' with the name that is most like `found` in any case of letters; '' if none is."""
    by_lower = {name.lower(): name for name in reversed(list(names))}
    near = difflib.get_close_matches(str(found).lower(), by_lower, n=1)
    return f" Did you mean '{prefix}{by_lower[near[0]]}'?" if near else ""


def read_yaml(path: Path) -> dict:
    """The mapping in a YAML file. Raises UserError, with the line, for what is no such mapping."""
    try:
        raw = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); save it with that encoding.") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = str(error.problem or error.context).splitlines()[0]
        raise UserError(f"{path} is not valid YAML: line {mark.line + 1}: {problem}.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}.") from None
    if not isinstance(raw, dict):
        found = "it is empty" if raw is None else f"found {short(repr(raw))}"
        raise UserError(f"{path} must be a mapping of keys; {found}.")
    return raw


def plain_value(text: str) -> typing.Any:
    """What a text is in YAML, if JSON has such values too (a number, true, null, a list); else the text itself."""
    try:
        value = YAML(typ="safe", pure=True).load(text)
        json.dumps(value, allow_nan=False)
    except (YAMLError, ValueError, TypeError, RecursionError):
        return text
    return value if text else ""


def build(kind: typing.Any, raw: object, path: Path | str, prefix: str = "") -> typing.Any:
    """A dataclass of declared keys from a mapping, recursively, with every key accounted for. Raises UserError."""
    if not isinstance(raw, dict):
        raise UserError(f"{path}: '{prefix.rstrip('.')}' must be a mapping of keys, found {short(repr(raw))}.")
    hints = _hints(kind)
    for name in raw:
        if name not in hints:
            raise UserError(
                f"{path}: unknown key '{prefix}{short(name)}'; accepted here: {', '.join(hints)}."
                f"{nearest(name, hints, prefix)}"
            )
    for name, hint in hints.items():
        has_default = kind.__dataclass_fields__[name].default is not dataclasses.MISSING
        if name not in raw and not has_default and not _is_optional(hint):
            raise UserError(f"{path}: missing key '{prefix}{name}'. Add it; `git diff {path}` shows what was changed.")
    found = {name: None for name, hint in hints.items() if _is_optional(hint)} | raw
    return kind(**{name: build_key(kind, name, value, path, prefix + name) for name, value in found.items()})


def build_key(kind: typing.Any, name: str, raw: object, path: Path | str, key: str) -> typing.Any:
    """The checked value of one key of a declared block; `key` is its dotted name in the file. Raises UserError."""
    accepts = kind.__dataclass_fields__[name].metadata["accepts"]
    return _value(_hints(kind)[name], accepts, raw, path, key)


def _value(hint: typing.Any, accepts: typing.Any, raw: object, path: Path | str, key: str) -> typing.Any:
    if raw is None and _is_optional(hint):
        return None
    hint = inner(hint)
    arguments, origin = typing.get_args(hint), typing.get_origin(hint)
    if hint is typing.Any:  # whoever declared it checks it
        return raw
    if dataclasses.is_dataclass(hint):
        return build(hint, raw, path, key + ".")
    if origin is dict:
        if not isinstance(raw, dict):
            raise UserError(f"{path}: '{key}' must be a mapping of names, found {short(repr(raw))}.")
        for name in raw:
            if not isinstance(name, str) or name not in NAME:
                raise UserError(f"{path}: '{key}' has the name {short(repr(name))}; accepted: text of {NAME}.")
        return {name: _value(arguments[1], accepts, value, path, f"{key}.{name}") for name, value in raw.items()}
    if origin is tuple:
        if not isinstance(raw, list):
            raise UserError(f"{path}: '{key}' must be a list, found {short(repr(raw))}.")
        if arguments[-1] is not Ellipsis and len(arguments) != len(raw):
            raise UserError(f"{path}: '{key}' must have {len(arguments)} values, found {short(repr(raw))}.")
        return tuple(_value(arguments[0], accepts, item, path, f"{key}[{i}]") for i, item in enumerate(raw))
    fits = isinstance(raw, (int, float) if hint is float else hint) and isinstance(raw, bool) == (hint is bool)
    if isinstance(accepts, tuple) and isinstance(raw, str):
        return one_of(raw, accepts, f"{key.rpartition('.')[2]} (key '{key}' of {path})")
    if not fits or isinstance(raw, float) and not isfinite(raw) or accepts is not None and raw not in accepts:
        raise UserError(f"{path}: '{key}' is {short(repr(raw))}; accepted: {_accepted(hint, accepts)}.")
    return float(typing.cast(float, raw)) if hint is float else raw


_hints = functools.cache(typing.get_type_hints)


def _is_optional(hint: typing.Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType) and type(None) in typing.get_args(hint)


def inner(hint: typing.Any) -> typing.Any:
    """The type without `| None`."""
    return next(kind for kind in typing.get_args(hint) if kind is not type(None)) if _is_optional(hint) else hint


def _accepted(hint: typing.Any, accepts: typing.Any) -> str:
    """'a whole number, 1 to 1,000': what a key takes, in words."""
    if _is_optional(hint):
        return f"null, or {_accepted(inner(hint), accepts)}"
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        number = "list" if arguments[-1] is Ellipsis else str(len(arguments))
        return f"{number} of: {_accepted(arguments[0], accepts)}"
    if typing.get_origin(hint) is dict:
        return f"names, each with {_accepted(arguments[1], accepts)}"
    if hint is typing.Any or isinstance(accepts, tuple):
        return accepts if hint is typing.Any else ", ".join(accepts)
    word = "a mapping" if dataclasses.is_dataclass(hint) else WORDS[hint]
    return word if accepts is None else str(accepts) if hint is str else f"{word}, {accepts}"


def short(found: object) -> str:
    """What was found, without line breaks, at most 60 characters."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(found))
    return text if len(text) <= 60 else f"{text[:57]}..."


def declared(kind: type, prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """(dotted key, accepted, unit, about) of each key of a block and of the blocks in it."""
    for field in dataclasses.fields(kind):
        hint = _hints(kind)[field.name]
        about, accepts, unit = (field.metadata[what] for what in ("about", "accepts", "unit"))
        yield f"{prefix}{field.name}", _accepted(hint, accepts), unit, about
        if dataclasses.is_dataclass(inner(hint)):
            yield from declared(inner(hint), f"{prefix}{field.name}.")
