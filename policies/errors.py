"""The root of every error Ringfence raises on purpose, and the policy branch of the tree.

    RingfenceError                 code (stable slug), message (what, where, the figure), hint (the next step)
    ├─ NameInvalidError            an id or name that does not fit its form
    └─ PolicyError                 something about a policy is wrong; knows file, line and column
       ├─ PolicySyntaxError        the file cannot be read as a policy: YAML, unknown key, bad unit, wrong type
       ├─ CeilingError             a value is over the operator's ceiling
       └─ PathEscapeError          a path leaves the directory it has to stay in

    FieldError (a ValueError)      one value is wrong; the loader turns it into a PolicySyntaxError with its line

Other rooms subclass `RingfenceError` in their own `errors.py`. Nothing here knows HTTP statuses or exit codes.
"""

from __future__ import annotations

from dataclasses import dataclass


class RingfenceError(Exception):
    """A failure we can name: `str()` is the message and, after a semicolon, what to do about it."""

    code: str = "internal"
    """Stable slug for machines (API answers, logs); subclasses set their own and never reuse one."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class NameInvalidError(RingfenceError):
    """A tenant, extension, sandbox, prompt, node or group name does not fit its form."""

    code = "name-invalid"


class PolicyError(RingfenceError):
    """A policy cannot be used; `file`, `line` and `column` (both from 1, 0 when unknown) say where."""

    code = "policy-invalid"

    def __init__(
        self, message: str, *, hint: str = "", file: str = "", line: int = 0, column: int = 0
    ) -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.line = line
        self.column = column

    @property
    def where(self) -> str:
        """`file:line:column`, as far as it is known; editors and terminals make it a link."""
        return place(self.file, self.line, self.column)

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.where}: {text}" if self.file else text


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a policy file."""

    line: int
    column: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class PolicySyntaxError(PolicyError):
    """The file does not say a policy; carries every problem found, the first one in its own message."""

    code = "policy-syntax"

    def __init__(self, file: str, problems: list[Problem] | tuple[Problem, ...]) -> None:
        ordered = sorted(problems, key=lambda problem: (problem.line, problem.column))
        first, rest = ordered[0], ordered[1:]
        message = first.message
        if rest:
            lines = ", ".join(str(problem.line) for problem in rest[:8])
            message += f" (and {len(rest)} more: line {lines}{', ...' if len(rest) > 8 else ''})"
        super().__init__(message, hint=first.hint, file=file, line=first.line, column=first.column)
        self.problems = tuple(ordered)


class CeilingError(PolicyError):
    """A value is over what the operator allows; names both lines, the value and the cap."""

    code = "policy-ceiling"


class PathEscapeError(PolicyError):
    """A path is not inside the directory it has to stay in, links resolved, compared by component."""

    code = "path-escape"


class FieldError(ValueError):
    """One value of a policy is wrong; `hint` says what to write instead.

    A `ValueError`, because that is what pydantic collects from validators; outside of them it becomes a
    `Problem` with file and line.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message}; {hint}")
        self.message = message
        self.hint = hint


def place(file: str, line: int = 0, column: int = 0) -> str:
    """`file:line:column` without the parts that are not known."""
    parts = [file, *(str(number) for number in (line, column) if number)]
    return ":".join(parts)
