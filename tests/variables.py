"""Which environment variables a library's sources read, found by walking over their syntax trees."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")
_READERS = {"getenv", "get_int_from_env", "parse_flag_from_env", "parse_choice_from_env"}
_MAPPINGS = ("environ", "env", "current_env", "environment")


def variables_read_in(folder: Path, skip: tuple[str, ...] = ()) -> dict[str, str]:
    """{variable: one file that reads or sets it} of all modules below `folder`."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        name = str(path.relative_to(folder))
        if not name.startswith(skip or ("\0",)):
            found |= dict.fromkeys(_variables(ast.parse(path.read_text(errors="replace"))), name)
    return found


def _variables(module: ast.Module) -> Iterator[str]:
    own = _constants(module.body)
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    for scope in (module, *functions):
        yield from _variables_in(scope, own | _constants(ast.walk(scope)) if scope in functions else own)


def _variables_in(scope: ast.AST, constants: dict[str, set[str]]) -> Iterator[str]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Subscript) and _is_environment(node.value):
            yield from _names(node.slice, constants)
        elif isinstance(node, ast.Compare) and any(map(_is_environment, node.comparators)):
            yield from _names(node.left, constants)
        elif isinstance(node, ast.Call) and node.args and _reads(node.func):
            yield from _names(node.args[0], constants)


def _constants(statements: Iterable[ast.AST]) -> dict[str, set[str]]:
    """The texts that variables are set to."""
    found = defaultdict(set)
    for node in statements:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            for target in node.targets:
                if isinstance(target, ast.Name) and isinstance(node.value.value, str):
                    found[target.id].add(node.value.value)
    return found


def _is_environment(node: ast.AST) -> bool:
    return ast.unparse(node).rpartition(".")[2] in _MAPPINGS


def _reads(function: ast.AST) -> bool:
    name = ast.unparse(function).rpartition(".")[2]
    by_method = isinstance(function, ast.Attribute) and _is_environment(function.value)
    return name in _READERS or (by_method and name in ("get", "pop", "setdefault"))


def _names(node: ast.AST, constants: dict[str, set[str]]) -> Iterator[str]:
    """Of `"NAME"`, `["NAME", "OTHER"]`, NAME of the module, and `prefix + "NAME"`."""
    if isinstance(node, ast.BinOp) and isinstance(node.right, ast.Constant):
        prefixes = constants.get(ast.unparse(node.left), ())
        yield from (f"{prefix}{node.right.value}" for prefix in prefixes)
        return
    for part in ast.walk(node):
        texts: set[str] | tuple[object, ...] = ()
        if isinstance(part, ast.Constant):
            texts = (part.value,)
        elif isinstance(part, ast.Name):
            texts = constants.get(part.id, ())
        yield from (text for text in texts if isinstance(text, str) and _NAME.fullmatch(text))
