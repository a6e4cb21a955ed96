"""Make one file wrong in one place at a time, and tell which wrongs its tests do not notice.

python -m tests.mutate src/orderflow/breaker.py tests/unit/test_breaker.py
"""

from __future__ import annotations

import ast
import importlib
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import CodeType

import psutil
import pytest
from hypothesis import settings

OTHERS: dict[type[ast.AST], list[type[ast.AST]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.Continue: [ast.Break],
}
#: What mypy holds, and no test has to.
UNTOUCHED = {"annotation", "returns", "decorator_list"}
PYTEST = [
    *("-qx", "--tb=no", "-pno:cacheprovider"),
    *("-ppytest_asyncio.plugin", "-p_hypothesis_pytestplugin"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # what is imported before
]


def wrongs(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what could wrongly stand for a node."""
    yield from (other() for other in OTHERS.get(type(node), []))
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (ast.Constant(value + 1), ast.Constant(value - 1))
        case ast.Constant(value=str(value)):
            yield ast.Constant("" if value else "?")
        case ast.UnaryOp(op=ast.Not()):
            yield node.operand
        case ast.If(test=ast.Name() | ast.Attribute() | ast.Call()):
            yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case ast.IfExp(test=ast.Name() | ast.Attribute() | ast.Call()):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case ast.Return(value=ast.expr()) if ast.unparse(node) != "return None":
            yield ast.Return(ast.Constant(None))
        case ast.Call(func=ast.Name(id="max" | "min")):
            return  # in any order
        case ast.Call(args=[first, second, *more]):
            yield ast.Call(node.func, [second, first, *more], node.keywords)
        case ast.Expr() | ast.AugAssign() | ast.Raise() | ast.Assign(targets=[ast.Attribute()]):
            yield ast.Pass()


def is_words(node: ast.AST) -> bool:
    """Say whether a node is a docstring, what a log is told, or the name of a type."""
    match node:
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.Call(func=ast.Attribute(value=ast.Name(id="log")) | ast.Name(id="TypeVar")):
            return True
    return isinstance(node, ast.Expr) and is_words(node.value)


def mutants(tree: ast.Module) -> Iterator[str]:
    """Make the tree wrong in one place at a time, and yield what is wrong while it is."""
    nodes: list[ast.AST] = [tree]
    for parent in nodes:
        for name, value in ast.iter_fields(parent):
            slots = value if isinstance(value, list) else [value]
            for n, right in enumerate(slots):
                if name in UNTOUCHED or not isinstance(right, ast.AST) or is_words(right):
                    continue
                nodes.append(right)
                # An operator has no text of its own.
                shown = right if isinstance(right, ast.expr | ast.stmt) else parent
                line, before = getattr(shown, "lineno", 0), ast.unparse(shown)
                for wrong in wrongs(right):
                    slots[n] = wrong
                    setattr(parent, name, value if value is slots else wrong)
                    after = ast.unparse(wrong if shown is right else parent)
                    yield f"{line}: {before}  ->  {after}"
                slots[n] = right
                setattr(parent, name, value if value is slots else right)


class Wrong(SourceFileLoader):
    """Finds one module, and loads it as the code that was made of it, or never."""

    def __init__(self, file: Path, code: CodeType | None) -> None:
        parts = file.resolve().relative_to(Path("src").resolve()).with_suffix("").parts
        super().__init__(".".join(parts).removesuffix(".__init__"), str(file.resolve()))
        self._code = code

    def find_spec(self, name: str, *_: object) -> ModuleSpec | None:
        return spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def get_code(self, name: str) -> CodeType:
        if self._code is None:
            raise ImportError(name)
        return self._code


def run(file: Path, code: CodeType, tests: list[str], imported: Connection | None = None) -> None:
    """Run the tests with `code` in place of the file's, and exit as pytest does."""
    sys.meta_path.insert(0, Wrong(file, code))
    settings.register_profile("mutants", max_examples=30, derandomize=True, database=None)
    settings.load_profile("mutants")
    if imported is None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(1, 2)
    status = pytest.main([*PYTEST, *tests])
    if imported is not None:
        imported.send([module for module in sys.modules if not module.startswith("tests.")])
    sys.exit(status)


def end(process: BaseProcess) -> None:
    """End a process, and the servers that its tests started."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    process.kill()
    for server in started:
        with suppress(psutil.NoSuchProcess):
            server.kill()
    process.join()


def main(file: Path, tests: list[str]) -> int:
    """Print each wrong that the tests do not notice, and how many there were."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    tree = ast.parse(file.read_text())
    processes = multiprocessing.get_context("fork")
    imported, sender = processes.Pipe(duplex=False)
    began = time.monotonic()
    right = processes.Process(
        target=run, args=(file, compile(tree, str(file), "exec"), tests, sender)
    )
    right.start()
    modules = imported.recv()
    right.join()
    if right.exitcode:
        return 2
    limit_s = 5 + 5 * (time.monotonic() - began)
    # What is imported here is there in each process that is forked off. What needs the file is not.
    sys.meta_path.insert(0, never := Wrong(file, None))
    for module in modules:
        with suppress(Exception):
            importlib.import_module(module)
    sys.meta_path.remove(never)
    # Of a package that needs the file, what was imported would not be found in the one made anew.
    for module in [name for name in sys.modules if name.startswith("orderflow.")]:
        if module.rpartition(".")[0] not in sys.modules:
            del sys.modules[module]
    ends = Counter[str]()
    for what in mutants(tree):
        code = compile(ast.fix_missing_locations(tree), str(file), "exec")
        process = processes.Process(target=run, args=(file, code, tests))
        process.start()
        process.join(limit_s)
        how = "too long" if process.is_alive() else "noticed" if process.exitcode else "UNNOTICED"
        end(process)
        ends[how] += 1
        if how != "noticed":
            print(f"{how:9}  {file}:{what}", flush=True)
    print(f"{file}: {ends.total()} wrongs,", ", ".join(f"{n} {how}" for how, n in ends.items()))
    return int(ends["UNNOTICED"] > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
