"""Small changes of Python source that a test should find: where they can be made, and the source with one of them."""

from __future__ import annotations

import ast
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

__all__ = ["Mutant", "is_program", "meaning", "mutants_of"]

#: Operators, as they are written, and what takes their place.
_OPERATORS = {
    "==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "+": "-", "-": "+", "*": "+", "//": "*",
    "%": "//", "<<": ">>", ">>": "<<", "&": "|", "|": "&", "^": "|", "and": "or", "or": "and", "is": "is not",
    "is not": "is", "in": "not in", "not in": "in",
}  # fmt: skip
#: Calls of Amaranth whose arguments 1 and 2 can change places.
_CHOICES = ("Mux",)


@dataclass(frozen=True)
class Mutant:
    """A change of a file."""

    #: Its path.
    file: str
    #: Number of the line, from 1 on.
    line: int
    #: That line, without what is around it.
    code: str
    #: The part that changes.
    old: str
    new: str
    #: Of the part, in characters of the file.
    start: int
    end: int
    #: Where it is: the names of the classes and functions around it, with points between; empty at the module's level.
    function: str

    def applied(self, source: str) -> str:
        """The changed source."""
        return source[: self.start] + self.new + source[self.end :]


class _Finder(ast.NodeVisitor):
    def __init__(self, source: str) -> None:
        self.source = source
        self.begins = [0]
        for text in source.splitlines(keepends=True):
            self.begins.append(self.begins[-1] + len(text))
        self.lines = source.splitlines()
        self.found: list[tuple[int, int, str, str]] = []
        self.around: tuple[str, ...] = ()

    def at(self, line: int, column: int) -> int:
        """Characters before a place; the parser counts bytes."""
        text = self.lines[line - 1].encode()[:column].decode()
        return self.begins[line - 1] + len(text)

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def change(self, start: int, end: int, new: str) -> None:
        self.found.append((start, end, new, ".".join(self.around)))

    def put(self, node: ast.expr | ast.stmt, new: str) -> None:
        self.change(*self.span(node), new)

    def within(self, name: str, body: list[ast.stmt]) -> None:
        self.around += (name,)
        for child in body:
            self.visit(child)
        self.around = self.around[:-1]

    def between(self, left: ast.expr, right: ast.expr) -> None:
        """The operator between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        text = self.source[start:end]
        word = text.strip(" \n\t()\\")
        if word in _OPERATORS:
            at = start + text.index(word)
            self.change(at, at + len(word), _OPERATORS[word])

    # What is no behaviour

    def visit_Import(self, node: ast.Import) -> None: ...

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None: ...

    def visit_Raise(self, node: ast.Raise) -> None: ...

    def visit_Assert(self, node: ast.Assert) -> None: ...

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None: ...

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self.within(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        for default in (*node.args.defaults, *node.args.kw_defaults):
            if default is not None:
                self.visit(default)
        self.within(node.name, node.body)

    # What is

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a documentation string
        if isinstance(node.value, ast.Call):
            self.put(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.put(node, "pass")
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, right in pairwise(operands):
            self.between(left, right)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self.between(node.left, node.right)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in pairwise(node.values):
            self.between(left, right)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        start, _ = self.span(node)
        inner, _ = self.span(node.operand)
        if isinstance(node.op, ast.Invert | ast.Not | ast.USub):
            self.change(start, inner, "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self.put(node, str(not node.value))
        elif isinstance(node.value, int):
            self.put(node, str(node.value + 1) if node.value != 1 else "0")

    def visit_List(self, node: ast.List) -> None:
        for element in node.elts:
            if isinstance(element, ast.Call) and isinstance(element.func, ast.Attribute) and element.func.attr == "eq":
                self.put(element, "*[]")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name in _CHOICES and len(node.args) == 3:
            (start, middle), (later, end) = self.span(node.args[1]), self.span(node.args[2])
            parts = self.source[start:middle], self.source[middle:later], self.source[later:end]
            self.change(start, end, parts[2] + parts[1] + parts[0])
        elif isinstance(node.func, ast.Attribute) and node.func.attr in ("If", "Elif") and len(node.args) == 1:
            start, end = self.span(node.args[0])
            self.change(start, end, "1")
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.put(node.test, "True")
        self.put(node.test, "False")
        self.generic_visit(node)


def mutants_of(file: str, source: str) -> Iterator[Mutant]:
    """Every change of a file, in order; nearly each is still a program, which :func:`is_program` tells.

    Parameters
    ----------
    file
        Its path, for the mutants.
    source
        Its text.
    """
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    for start, end, new, function in sorted(set(finder.found)):
        line = bisect_right(finder.begins, start)
        mutant = Mutant(file, line, finder.lines[line - 1].strip(), source[start:end], new, start, end, function)
        if mutant.old != new:
            yield mutant


def is_program(source: str) -> bool:
    """The interpreter can parse it."""
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True


def _meaning(part: Any) -> str:
    if isinstance(part, list):
        # A documentation string is a statement that is a constant.
        return f"[{' '.join(_meaning(x) for x in part if not _is_text(x))}]"
    if isinstance(part, ast.AST):
        # Interpreters differ in fields that say nothing.
        fields = (f"{name}={_meaning(x)}" for name, x in ast.iter_fields(part) if x is not None and x != [])
        return f"{type(part).__name__}({' '.join(fields)})"
    return repr(part)


def _is_text(part: Any) -> bool:
    return isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str)


def meaning(source: str) -> str:
    """What remains of a source, or of a part of one, whatever its documentation, comments, layout and line numbers are.

    A part that is no program, such as an operator, is itself.
    """
    for text in (source, f"({source}\n)"):
        try:
            return _meaning(ast.parse(text))
        except SyntaxError:
            continue
    return source
