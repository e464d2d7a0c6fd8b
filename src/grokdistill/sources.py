"""Which sources a stage depends on, and a digest of what they compute.

Dependencies are read from the import statements, so nothing is listed by hand. A digest is taken of the syntax tree
without docstrings, so that comments, blank lines, line breaks and documentation do not count; imports for type checking
alone (`if TYPE_CHECKING:`) do not count either, since they never run.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = "grokdistill"
ROOT = Path(__file__).resolve().parent


def module_path(module: str) -> Path | None:
    """The file of a module of this package, or None where there is none."""
    base = ROOT.joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _tree(module: str) -> ast.Module:
    """The module's syntax tree without docstrings and without imports for type checking."""
    tree = ast.parse(module_path(module).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            node.body = node.body[1:] or [ast.Pass()]
    body = []
    for node in tree.body:
        body.extend(node.orelse if _type_checking(node) else [node])
    tree.body = body
    return tree


def _type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _dump(node: object) -> str:
    """A syntax tree as text, without empty fields, which differ from one Python version to the next."""
    if isinstance(node, list):
        return "[" + ",".join(map(_dump, node)) + "]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = ((name, getattr(node, name, None)) for name in node._fields)
    return (
        f"{type(node).__name__}("
        + ",".join(f"{name}={_dump(value)}" for name, value in fields if value not in (None, []))
        + ")"
    )


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of this package that `module` imports, anywhere in its body."""
    found = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{module}: imports from this package are absolute, so that they can be followed")
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        found |= {name for name in names if name.startswith(f"{PACKAGE}.") and module_path(name)}
    return frozenset(found)


@cache
def closure(module: str) -> tuple[str, ...]:
    """`module` and all that it imports from this package, directly or not, sorted by name."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo.extend(imports(name))
    return tuple(sorted(seen))


@cache
def digest(module: str) -> str:
    """Hex digest of what `module` and its imports compute."""
    total = hashlib.sha256()
    for name in closure(module):
        total.update(f"{name}\0{_dump(_tree(name))}\0".encode())
    return total.hexdigest()


def parts(module: str) -> dict[str, dict[str, str]]:
    """Short digests of what the closure is made of, to tell later what changed: file -> function or method -> digest.

    What a file or class holds beside its functions is under "" and under the class's name.
    """
    return {module_path(name).relative_to(ROOT).as_posix(): _parts(name) for name in closure(module)}


@cache
def _parts(module: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}

    def visit(body: list[ast.stmt], place: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found.setdefault(place + node.name, []).append(_dump(node))
            elif isinstance(node, ast.ClassDef):
                head = [*node.bases, *node.keywords, *node.decorator_list]
                found.setdefault(place + node.name, []).append(_dump(head))
                visit(node.body, f"{place}{node.name}.")
            else:
                found.setdefault(place.rstrip("."), []).append(_dump(node))

    visit(_tree(module).body, "")
    return {name: hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8] for name, texts in found.items()}
