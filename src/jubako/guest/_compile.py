"""Turns the agent's modules, or another program's, into one ``.pyc``; runs in the interpreter that will run it.

Kept free of imports from jubako: for another interpreter its source is piped into that interpreter.
Annotations, docstrings and ``TYPE_CHECKING`` blocks are left out, which makes the agent start faster
and lets its sources use annotations that an old interpreter could not evaluate.
"""

from __future__ import annotations

import ast
import importlib.util
import marshal

__all__ = ["compile_bundle"]

# Version 2 has no back references: those depend on reference counts, and so on the moment.
_MARSHAL_VERSION = 2

_LOADER = """
import gc
import sys
import marshal
gc.set_threshold(20000)  # the default looks through everything some twenty times before the first request
Spec = type(sys.__spec__)
class Loader:
    def find_spec(name, path=None, target=None):
        if name in TABLE:
            return Spec(name, Loader, is_package=name == PACKAGE)
    def create_module(spec):
        return None
    def exec_module(module):
        exec(marshal.loads(TABLE[module.__spec__.name]), module.__dict__)
for name in ("find_spec", "create_module", "exec_module"):
    setattr(Loader, name, staticmethod(getattr(Loader, name)))
sys.meta_path.insert(0, Loader)
"""


class _Strip(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:  # named by the base class
        node.returns = None
        arguments = node.args
        for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
            argument.annotation = None
        for extra in (arguments.vararg, arguments.kwarg):
            if extra is not None:
                extra.annotation = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return (
                None
                if not isinstance(node.target, ast.Name) or not node.simple
                else ast.copy_location(ast.Pass(), node)
            )
        return ast.copy_location(ast.Assign(targets=[node.target], value=node.value, lineno=node.lineno), node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return node.orelse
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        return None if node.module == "__future__" else node


def _code(source: str, name: str) -> bytes:
    tree = ast.fix_missing_locations(_Strip().visit(ast.parse(source)))
    code = compile(tree, name, "exec", dont_inherit=True, optimize=2)
    return marshal.dumps(code, _MARSHAL_VERSION)


def compile_bundle(sources: dict[str, str], package: str = "agent") -> bytes:
    """Return a ``.pyc`` that calls ``main`` of the package's module ``main``.

    ``sources`` maps the package's module names to their text.
    """
    table = {
        package if name == "__init__" else f"{package}.{name}": _code(text, f"<{package}>/{name}.py")
        for name, text in sorted(sources.items())
    }
    text = f"PACKAGE = {package!r}\nTABLE = {table!r}\n{_LOADER}from {package}.main import main\nmain()\n"
    main = compile(text, f"<{package}>", "exec", dont_inherit=True, optimize=2)
    # Flags 0 and no time stamp: the loader of a script checks neither, and the bytes stay the same.
    return importlib.util.MAGIC_NUMBER + bytes(12) + marshal.dumps(main, _MARSHAL_VERSION)
