"""Outside text made harmless, by a function for each output: nothing that a model, a data file, a plugin or a user
wrote may command a terminal, become markup, or start a formula.

Everything but the text of this package is outside text: names, rules and remarks of plugins, prompts and answers, model
ids, paths, error messages. Control characters are shown (``\\x1b`` as ␛), not obeyed, and those that turn the
direction of writing are taken out of force, so that a line reads as what it is.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from harness.files.wording import agree, counted, noun_for, plural, the

if TYPE_CHECKING:
    import jinja2

UNKNOWN = "\N{REPLACEMENT CHARACTER}"

_TURNING = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
"""Embeddings, overrides and isolates of the direction of writing; the marks that Arabic and Hebrew need stay."""

_UNFIT = [*range(0x80, 0xA0), *_TURNING, *range(0xD800, 0xE000)]
"""C1 control characters, turns of direction, and halves of surrogate pairs, which no output can encode."""

_SHOWN: dict[int, str] = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"}
_SHOWN |= {0x7F: "\N{SYMBOL FOR DELETE}", **dict.fromkeys(_UNFIT, UNKNOWN)}

_NUMBER = re.compile(r"[+-]?(inf|\d+(\.\d*)?([eE][+-]?\d+)?)")

_MARKUP = {**{sign: f"\\{sign}" for sign in "\\`*_[]|"}, "<": "&lt;", "~": "&#126;", "&": "&amp;"}
_MARKUP_RULE = re.compile(r"[\\`*_\[\]|<~]|&(?=#?\w+;)")
_BLOCK = re.compile(r"(?=(#{1,6}|[-+]|\d+[.)])\s|>|=+$|-{2,}$)")
"""What at the beginning of a paragraph would make it a heading, a list, a quotation or a rule."""

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}",
}  # fmt: skip


def plain(text: str) -> str:
    """Text for a terminal or a page: as many characters as before, none of them a command; tabs and line ends stay."""
    return text.translate(_SHOWN)


def line(text: str) -> str:
    """Text for one line: line ends and runs of spaces become one space."""
    return plain(" ".join(text.split()))


class Markup(str):
    """Markdown of our own: what is put into a page as it is."""


def markdown(text: str) -> Markup:
    """Text for a line of Markdown, or a cell of its tables: it means itself, and raw HTML is none."""
    text = line(text)
    found = _MARKUP_RULE.sub(lambda match: _MARKUP[match[0]], text)
    return Markup(_BLOCK.sub(r"\\", found, count=1) if _BLOCK.match(found) else found)


def markdown_code(text: str) -> Markup:
    """Text as a code span of Markdown."""
    text = line(text).replace("|", "¦")
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence, pad = "`" * (longest + 1), " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{pad}{text}{pad}{fence}")


def markdown_link(path: str) -> Markup:
    """A relative path as the target of a link of Markdown."""
    return Markup(quote(path.encode(errors="replace"), safe="/"))


def latex(text: str) -> str:
    """Text as LaTeX prints it; ``->`` becomes an arrow, a control character a question mark."""
    parts = " ".join(text.split()).translate(dict.fromkeys(_SHOWN, "?")).split("->")
    return r"$\to$".join("".join(_SPECIAL.get(character, character) for character in part) for part in parts)


def figure(text: str) -> str:
    """Text for matplotlib: a dollar sign does not begin a formula."""
    return text.translate(dict.fromkeys(_SHOWN, UNKNOWN)).replace("$", r"\$")  # its font has no pictures of controls


def cell(value: Any) -> Any:
    """A value for CSV: text that a spreadsheet would compute is led by an apostrophe; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) and not _NUMBER.fullmatch(text) else text


def csv_text(header: Iterable[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated values, one header line."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(cell, header))
    writer.writerows([cell(value) for value in row] for row in rows)
    return out.getvalue()


def json_text(value: Any, **options: Any) -> str:
    """JSON for a terminal: the same value, with what a terminal would obey written as ``\\u009b``."""
    text = json.dumps(value, ensure_ascii=False, **options)
    return "".join(f"\\u{ord(x):04x}" if ord(x) > 0x7E and ord(x) in _SHOWN else x for x in text)


def html_environment(package: str = "harness.report") -> jinja2.Environment:
    """For templates of pages, in a package's folder ``templates``: all text is escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {x.__name__: x for x in (agree, counted, noun_for, plural, the)}
    return environment


def markdown_environment() -> jinja2.Environment:
    """For templates of Markdown: all text that is not :class:`Markup` is escaped."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report"),
        autoescape=False,
        finalize=lambda value: value if isinstance(value, Markup) else markdown(str(value)),
        keep_trailing_newline=True,
    )
