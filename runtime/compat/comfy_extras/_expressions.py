"""Arithmetic as a text, evaluated without ``eval``: numbers, names, operators, comparisons, some functions."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

#: Larger exponents make numbers that take minutes to compute.
MAX_EXPONENT = 4000
_MAX_LENGTH = 10_000


def _power(base: Any, exponent: Any) -> Any:
    if abs(exponent) > MAX_EXPONENT:
        raise ValueError(f"the exponent {exponent} is over the limit of {MAX_EXPONENT}")
    return base**exponent


def _sum(*values: Any) -> Any:
    return sum(values[0]) if len(values) == 1 and hasattr(values[0], "__iter__") else sum(values)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": _sum,
    "min": min,
    "max": max,
    "abs": abs,
    "round": round,
    "pow": _power,
    "sqrt": math.sqrt,
    "ceil": math.ceil,
    "floor": math.floor,
    "log": math.log,
    "log2": math.log2,
    "log10": math.log10,
    "sin": math.sin,
    "cos": math.cos,
    "tan": math.tan,
    "int": int,
    "float": float,
}
_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
}


def evaluate(expression: str, names: Mapping[str, Any]) -> Any:
    """The value of an expression.

    Raises:
        ValueError: it is no expression, or uses what is not offered here.
    """
    if len(expression) > _MAX_LENGTH:
        raise ValueError(
            f"the expression has {len(expression)} characters; at most {_MAX_LENGTH} are evaluated"
        )
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, RecursionError) as error:
        raise ValueError(f"{expression[:200]!r} is not an expression: {error}") from error
    return _Evaluation(names).of(tree.body)


class _Evaluation:
    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = {"True": True, "False": False, "None": None, **names}

    def of(self, node: ast.AST) -> Any:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise ValueError(f"an expression cannot use {type(node).__name__} here")
        return method(node)

    def _constant(self, node: ast.Constant) -> Any:
        if not isinstance(node.value, (int, float)):
            raise TypeError(f"{node.value!r} is not a number")
        return node.value

    def _name(self, node: ast.Name) -> Any:
        if node.id not in self._names:
            raise ValueError(f"there is no value {node.id!r}; there are {', '.join(sorted(self._names))}")
        return self._names[node.id]

    def _binop(self, node: ast.BinOp) -> Any:
        return self._operator(node.op)(self.of(node.left), self.of(node.right))

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        return self._operator(node.op)(self.of(node.operand))

    def _boolop(self, node: ast.BoolOp) -> Any:
        value: Any = None
        for part in node.values:
            value = self.of(part)
            if bool(value) == isinstance(node.op, ast.Or):
                break
        return value

    def _compare(self, node: ast.Compare) -> bool:
        left = self.of(node.left)
        for step, part in zip(node.ops, node.comparators, strict=True):
            right = self.of(part)
            if not self._operator(step)(left, right):
                return False
            left = right
        return True

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.of(node.body if self.of(node.test) else node.orelse)

    def _subscript(self, node: ast.Subscript) -> Any:
        return self.of(node.value)[self.of(node.slice)]

    def _call(self, node: ast.Call) -> Any:
        if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS or node.keywords:
            raise ValueError(f"an expression can call {', '.join(FUNCTIONS)}, and nothing else")
        return FUNCTIONS[node.func.id](*(self.of(argument) for argument in node.args))

    def _operator(self, node: ast.AST) -> Callable[..., Any]:
        if type(node) not in _OPERATORS:
            raise ValueError(f"an expression cannot use {type(node).__name__} here")
        return _OPERATORS[type(node)]
