"""How near this project's functions and texts come to those of a ComfyUI checkout, which has another licence.

    python tests/compat/licence_distance.py CHECKOUT [--limit SHARE] [--show N]

Our code does what ComfyUI does in a form of its own; this looks whether a form came along with the behaviour. Each
function body of ours is read into tokens twice: as it stands, and with its own names blanked (names of attributes,
arguments by keyword and builtins stay). Against the body of the same name and the likeliest others of the checkout, it
counts which share of our tokens lies in stretches that both have in the same order.
Declarations (``INPUT_TYPES``, ``define_schema``) and signatures are interfaces and do not count, nor do bodies of
less than 25 tokens (with blanked names, less than 45, and in tests: those are alike by chance). Texts are compared by
runs of seven words. Nothing of the checkout is printed but names and places.

Exit status 1: a body's share, its longest stretch or a text is over the limit without being listed below with a reason.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import io
import keyword
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("runtime", "extensions", "engine", "api", "sandbox", "policies", "tests", "examples", "benchmarks")
INTERFACES = {"INPUT_TYPES", "define_schema", "GET_SCHEMA"}
SMALLEST, SMALLEST_BLANKED = 25, 45  # tokens
LONGEST = 40  # tokens in a row, names blanked
EXACT_RUN, BLANKED_RUN, SEED = 12, 10, 6  # tokens in the same order that count as one stretch
WORDS = 7
KEPT_NAMES = (
    set(dir(builtins)) | set(keyword.kwlist) | {"torch", "np", "math", "json", "os", "re", "self", "cls"}
)
LIKE_THEIRS = ("runtime", "extensions", "engine", "api")  # elsewhere names blanked are alike by chance only
#: Place and name, or place and text -> why it stays.
ACCEPTED = {
    "engine/migrations/versions/0002_assets_submissions.py:upgrade": "a list of columns, in Alembic's words",
    "engine/migrations/versions/0003_node_state.py:upgrade": "a list of columns, in Alembic's words",
    "runtime/loop.py:LoopThread.start": "Python's way to start a thread",
}
ACCEPTED_TEXTS = {
    "runtime/compat/comfy_extras/nodes_preview_any.py": "a node's result",
    "engine/constraints.py": "a message of the API that clients know",
    "api/frontend.py": "the address of the frontend's project",
    "runtime/worker.py": "three words that happen to meet",
}


@dataclass(frozen=True)
class Body:
    place: str
    name: str
    exact: tuple[str, ...]
    blanked: tuple[str, ...]


@dataclass(frozen=True)
class Nearness:
    ours: Body
    theirs: Body
    exact: float
    blanked: float
    longest: int

    @property
    def share(self) -> float:
        return max(self.exact, self.blanked if self._blanked_counts() else 0.0)

    def is_over(self, limit: float) -> bool:
        return self.share > limit or (self._blanked_counts() and self.longest > LONGEST)

    def _blanked_counts(self) -> bool:
        return len(self.ours.blanked) >= SMALLEST_BLANKED and self.ours.place.startswith(LIKE_THEIRS)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--limit", type=float, default=0.6, help="share of a body that may be alike")
    parser.add_argument("--show", type=int, default=25, help="how many of the nearest to print")
    options = parser.parse_args()
    theirs = list(python_files([options.checkout]))
    ours = list(python_files(ROOT / room for room in ROOMS))
    nearest = sorted(
        nearest_bodies(list(bodies(ours, ROOT)), list(bodies(theirs, options.checkout))),
        key=lambda found: -found.share,
    )
    over = [found for found in nearest if found.is_over(options.limit) and label(found.ours) not in ACCEPTED]
    for found in over + [found for found in nearest if found not in over][: options.show]:
        mark = "OVER" if found in over else "kept" if label(found.ours) in ACCEPTED else "    "
        size = f"longest {found.longest:3} of {len(found.ours.exact):3} tokens"
        shares = f"{found.exact:4.0%} as it stands, {found.blanked:4.0%} with names blanked, {size}"
        print(f"{mark} {shares}: {label(found.ours)} ~ {label(found.theirs)}")
    shared = [text for text in shared_texts(ours, theirs) if text.partition(":")[0] not in ACCEPTED_TEXTS]
    for text in shared:
        print(f"TEXT {text}")
    print(f"{len(nearest)} bodies, {len(over)} over {options.limit:.0%}; {len(shared)} shared texts")
    return 1 if over or shared else 0


def label(body: Body) -> str:
    return f"{body.place}:{body.name}"


def python_files(places: Iterable[Path]) -> Iterator[Path]:
    for place in places:
        for path in sorted(place.rglob("*.py")):
            if not {".venv", "venv", "node_modules", "custom_nodes", "build"} & set(
                path.relative_to(place).parts
            ):
                yield path


# -- bodies ----------------------------------------------------------------------------------------------------------


class _Named(ast.NodeVisitor):
    """Each function with its dotted name; a nested one counts alone and inside its outer one."""

    def __init__(self) -> None:
        self.at: list[str] = []
        self.found: list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]] = []

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.found.append((".".join([*self.at, node.name]), node))
        self._inside(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.found.append((".".join([*self.at, node.name]), node))
        self._inside(node)

    def _inside(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self.at.append(node.name)
        self.generic_visit(node)
        self.at.pop()


class _Plain(ast.NodeTransformer):
    """A body without what says nothing about its form: texts about it, types, and arguments that are only handed on."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        about = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        handed_on = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "super().__init__"
        return None if about or handed_on else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        kept = [target.attr for target in node.targets if isinstance(target, ast.Attribute)]
        handed_on = isinstance(node.value, ast.Name) and kept == [node.value.id]
        return None if handed_on else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        plain = ast.Assign([node.target], node.value)
        return self.visit_Assign(ast.fix_missing_locations(ast.copy_location(plain, node)))

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node


def bodies(paths: Iterable[Path], root: Path) -> Iterator[Body]:
    for path in paths:
        named = _Named()
        tree = parsed(path)
        if tree is None:
            continue
        named.visit(tree)
        for name, function in named.found:
            if function.name in INTERFACES:
                continue
            module = _Plain().visit(ast.Module(body=list(function.body), type_ignores=[]))
            exact = tuple(tokens(ast.unparse(module)))
            if len(exact) >= SMALLEST:
                yield Body(str(path.relative_to(root)), name, exact, tuple(blanked(exact)))


def parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return None


def tokens(source: str) -> Iterator[str]:
    skipped = {tokenize.NEWLINE, tokenize.NL, tokenize.COMMENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in {tokenize.INDENT, tokenize.DEDENT}:
            yield "{" if token.type == tokenize.INDENT else "}"
        elif token.type not in skipped:
            yield token.string


def blanked(exact: tuple[str, ...]) -> Iterator[str]:
    before = ""
    for token in exact:
        if token[:1] in "\"'" or token[:2] in {"f'", 'f"', "r'", 'r"'}:
            yield "?text"
        elif token.isidentifier() and before != "." and token not in KEPT_NAMES:
            yield "?name"
        else:
            yield token
        before = token


def nearest_bodies(ours: list[Body], theirs: list[Body]) -> Iterator[Nearness]:
    by_run: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    by_name: defaultdict[str, list[int]] = defaultdict(list)
    for number, body in enumerate(theirs):
        by_name[body.name.rpartition(".")[2]].append(number)
        for run in set(runs(body.blanked, SEED)):
            by_run[run].append(number)
    for body in ours:
        votes: Counter[int] = Counter()
        for run in set(runs(body.blanked, SEED)):
            holders = by_run.get(run, [])
            if len(holders) <= 200:
                votes.update(holders)
        likely = {number for number, _ in votes.most_common(3)}
        likely.update(sorted(by_name[body.name.rpartition(".")[2]], key=lambda n: -votes[n])[:2])
        if likely:
            yield max((compared(body, theirs[number]) for number in likely), key=lambda found: found.share)


def compared(ours: Body, theirs: Body) -> Nearness:
    exact, _ = alike(ours.exact, theirs.exact, EXACT_RUN)
    loose, longest = alike(ours.blanked, theirs.blanked, BLANKED_RUN)
    return Nearness(ours, theirs, exact, loose, longest)


def alike(ours: tuple[str, ...], theirs: tuple[str, ...], least: int) -> tuple[float, int]:
    blocks = SequenceMatcher(None, ours, theirs, autojunk=False).get_matching_blocks()
    sizes = [block.size for block in blocks]
    return sum(size for size in sizes if size >= least) / len(ours), max(sizes, default=0)


def runs(sequence: tuple[str, ...], length: int) -> Iterator[tuple[str, ...]]:
    return (sequence[start : start + length] for start in range(len(sequence) - length + 1))


# -- texts -----------------------------------------------------------------------------------------------------------


def shared_texts(ours: Iterable[Path], theirs: Iterable[Path]) -> Iterator[str]:
    known = {run for path in theirs for _, text in texts(path) for run in runs(words(text), WORDS)}
    for path in ours:
        for line, text in texts(path):
            for run in runs(words(text), WORDS):
                if run in known:
                    yield f"{path.relative_to(ROOT)}:{line}: {' '.join(run)}"
                    break


def texts(path: Path) -> Iterator[tuple[int, str]]:
    tree = parsed(path)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


def words(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[a-z]{2,}(?:'[a-z]+)?", text.lower()))


if __name__ == "__main__":
    sys.exit(main())
