"""Finds what the functions that we put in the place of others do with objects of the user outside the guard.

A patched function may hand an argument on: to the original, to `contain`, to another function of ours, which is
looked at as well. It may ask for its `type` and compare by `is`. Everything else can run code of the user, which
may raise, block or have an effect: an attribute, an operator, a truth value, a length, an iteration, a string.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Calls that look at nothing but the class, or only keep the object.
_STATIC = {
    "type", "id", "callable", "functools.partial", "inspect.getattr_static", "object.__getattribute__",
    "issubclass", "weakref.ref", "cast",
}  # fmt: skip
_GUARDS = {"guarded"}
_Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Module:
    path: Path
    tree: ast.Module
    # Where the names of the module come from: name -> (module, name there).
    imported: dict[str, tuple[str, str]] = field(default_factory=dict)
    definitions: dict[str, ast.AST] = field(default_factory=dict)


class Lint:
    """Looks through the modules of a package below `root`."""

    def __init__(self, root: Path, package: str = "carbon_otel") -> None:
        self._root = root
        self._package = package
        self._modules: dict[Path, Module | None] = {}
        self._checked: set[tuple[Path, int, frozenset[str]]] = set()
        self.functions = 0

    def violations(self, path: Path) -> list[str]:
        module = self._load(path)
        assert module is not None, path
        found: list[str] = []
        for function, ours in _patched(module.tree, module):
            self.functions += 1
            found += self._check(module, function, skipped=ours)
        return sorted(set(found))

    def _load(self, path: Path) -> Module | None:
        if path not in self._modules:
            self._modules[path] = _module(path) if path.exists() else None
        return self._modules[path]

    def _check(
        self, module: Module, function: ast.AST, skipped: int = 0, only: set[str] | None = None
    ) -> list[str]:
        """`skipped` parameters are ours, the others the user's; or `only` those are."""
        if isinstance(function, ast.ClassDef):
            inits = [n for n in function.body if isinstance(n, _Function) and n.name == "__init__"]
            if not inits:
                return []
            function, skipped = inits[0], skipped + 1
        assert isinstance(function, _Function)
        a = function.args
        names = [p.arg for p in (*a.posonlyargs, *a.args)][skipped:] + [p.arg for p in a.kwonlyargs]
        user = set(names) if only is None else set(names) & only
        containers = {p.arg for p in (a.vararg, a.kwarg) if p is not None}
        key = (module.path, function.lineno, frozenset(user))
        if key in self._checked:
            return []
        self._checked.add(key)
        visitor = _Visitor(self, module, function, user, containers)
        for statement in function.body:
            visitor.visit(statement)
        return visitor.found

    def resolve(self, module: Module, name: str) -> tuple[Module, ast.AST] | None:
        """The function or class of ours that a name of the module stands for."""
        if name in module.definitions:
            return module, module.definitions[name]
        local = [n for n in ast.walk(module.tree) if isinstance(n, _Function) and n.name == name]
        if local:
            return module, local[0]
        source, original = module.imported.get(name, ("", ""))
        if source.partition(".")[0] != self._package:
            return None
        base = self._root.joinpath(*source.split("."))
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            other = self._load(path)
            if other is not None and original in other.definitions:
                return other, other.definitions[original]
        return None


def _module(path: Path) -> Module:
    module = Module(path, ast.parse(path.read_text()))
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module.imported[alias.asname or alias.name] = (node.module, alias.name)
        elif isinstance(node, (*_Function, ast.ClassDef)):
            module.definitions[node.name] = node
    return module


def _patched(tree: ast.Module, module: Module) -> Iterator[tuple[ast.AST, int]]:
    """The functions that take the place of others, and how many of their first parameters are ours.

    They have the decorator `functools.wraps`, or are given to `replace`, or to `Around` with arguments of ours.
    """
    functions = {n.name: n for n in ast.walk(tree) if isinstance(n, (*_Function, ast.ClassDef))}
    methods = {
        id(method)
        for cls in ast.walk(tree)
        if isinstance(cls, ast.ClassDef)
        for method in cls.body
        if isinstance(method, _Function)
    }
    for node in ast.walk(tree):
        if isinstance(node, _Function):
            if any(
                isinstance(d, ast.Call) and _name(d.func) == "functools.wraps" for d in node.decorator_list
            ):
                yield node, 0
        elif isinstance(node, ast.Call) and _name(node.func) in ("replace", "Around") and node.args:
            given = node.args[2] if _name(node.func) == "replace" and len(node.args) > 2 else node.args[0]
            while isinstance(given, ast.Call) and given.args:  # property(f), classmethod(f)
                given = given.args[0]
            name = _name(given).rpartition(".")[2]
            if name in functions:
                ours = len(node.args) - 1 if _name(node.func) == "Around" else 0
                yield functions[name], ours + (id(functions[name]) in methods)


def _wraps(function: ast.AST) -> list[ast.Call]:
    decorators = getattr(function, "decorator_list", [])
    return [d for d in decorators if isinstance(d, ast.Call) and _name(d.func) == "functools.wraps"]


def _name(node: ast.AST) -> str:
    """`a.b.c` of an expression; "" where it is another one."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return ""


class _Visitor(ast.NodeVisitor):
    """Follows the user's objects through one function."""

    def __init__(
        self, lint: Lint, module: Module, function: ast.AST, user: set[str], containers: set[str]
    ) -> None:
        self._lint = lint
        self._module = module
        self._function = function
        self._user = user
        self._containers = containers  # *args and **kwargs: ours, with objects of the user in them
        self._originals = {_name(wraps.args[0]) for wraps in _wraps(function) if wraps.args}
        self._results: set[str] = set()  # what the original has returned: to be awaited or stepped through
        self.found: list[str] = []

    def _report(self, node: ast.AST, what: str) -> None:
        place = f"{self._module.path.name}:{getattr(node, 'lineno', 0)}"
        self.found.append(f"{place} {getattr(self._function, 'name', '')}: {what}")

    def _is_user(self, node: ast.AST | None) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self._user or node.id in self._results
        if isinstance(node, ast.Starred):
            return self._is_user(node.value)
        if isinstance(node, ast.Subscript):
            return isinstance(node.value, ast.Name) and node.value.id in self._containers
        if isinstance(node, ast.Call):
            return self._is_original(node) or (
                isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id in self._containers
            )
        if isinstance(node, ast.IfExp):
            return self._is_user(node.body) or self._is_user(node.orelse)
        if isinstance(node, ast.BoolOp):
            return any(map(self._is_user, node.values))
        if isinstance(node, (ast.Await, ast.NamedExpr)):
            return self._is_user(node.value)
        return isinstance(node, (ast.Tuple, ast.List)) and any(map(self._is_user, node.elts))

    def _is_original(self, call: ast.Call) -> bool:
        """Whether the function is called that was there before.

        `functools.wraps` names it; else it is the only function whose name is of the surroundings.
        """
        name = _name(call.func)
        if self._originals:
            return name in self._originals
        known = name in self._user or self._lint.resolve(self._module, name) is not None
        foreign = name in self._module.imported or hasattr(builtins, name)
        return isinstance(call.func, ast.Name) and not known and not foreign

    # Statements.

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self._bind(target, node.value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
            self._bind(node.target, node.value)

    def _bind(self, target: ast.AST, value: ast.AST) -> None:
        if isinstance(target, ast.Name):
            from_original = isinstance(value, ast.Call) and self._is_original(value)
            if from_original:
                self._results.add(target.id)
            elif self._is_user(value):
                self._user.add(target.id)
            else:
                self._user.discard(target.id)
        else:
            self.visit(target)

    def visit_With(self, node: ast.With) -> None:
        self._with(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self._with(node)

    def _with(self, node: ast.With | ast.AsyncWith) -> None:
        for item in node.items:
            if self._is_user(item.context_expr):
                self._report(node, "enters an object of the user")
            self.visit(item.context_expr)
        managers = {_name(i.context_expr.func) for i in node.items if isinstance(i.context_expr, ast.Call)}
        if not managers & _GUARDS:
            for statement in node.body:
                self.visit(statement)

    def visit_Try(self, node: ast.Try) -> None:
        logs = [
            h for h in node.handlers if _name(h.type or node) == "Exception" and "log_fault" in ast.dump(h)
        ]
        for statement in (*(() if logs else node.body), *node.handlers, *node.orelse, *node.finalbody):
            self.visit(statement)

    def visit_If(self, node: ast.If) -> None:
        self._truth(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._truth(node.test)
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        self._truth(node.test)
        self.generic_visit(node)

    def visit_For(self, node: ast.For) -> None:
        self._iterated(node.iter)
        if isinstance(node.iter, ast.Name) and node.iter.id in self._containers:
            self._user |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
        self.generic_visit(node)

    def visit_Match(self, node: ast.Match) -> None:
        if self._is_user(node.subject):
            self._report(node, "matches an object of the user")
        self.generic_visit(node)

    # Expressions.

    def _truth(self, test: ast.AST) -> None:
        if self._is_user(test):
            self._report(test, f"asks for the truth of {ast.unparse(test)}")

    def _iterated(self, iterable: ast.AST) -> None:
        if self._is_user(iterable) and not (isinstance(iterable, ast.Name) and iterable.id in self._results):
            self._report(iterable, f"iterates over {ast.unparse(iterable)}")

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._truth(node.test)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for value in node.values[:-1]:
            self._truth(value)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self._operand(node.operand)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        self._operand(node.left)
        self._operand(node.right)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        if not all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            for operand in (node.left, *node.comparators):
                self._operand(operand)
        self.generic_visit(node)

    def _operand(self, operand: ast.AST) -> None:
        if self._is_user(operand):
            self._report(operand, f"has an operator on {ast.unparse(operand)}")

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self._iterated(node.iter)
        if isinstance(node.iter, ast.Name) and node.iter.id in self._containers:
            self._user |= {n.id for n in ast.walk(node.target) if isinstance(n, ast.Name)}
        for test in node.ifs:
            self._truth(test)
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self._iterated(node.value)
        self.generic_visit(node)

    def visit_FormattedValue(self, node: ast.FormattedValue) -> None:
        if self._is_user(node.value):
            self._report(node, f"makes a string of {ast.unparse(node.value)}")
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._is_user(node.value):
            self._report(node, f"reads or sets {ast.unparse(node)}")
        self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if self._is_user(node.value):
            self._report(node, f"reads or sets {ast.unparse(node)}")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if self._is_user(node.func):
            self._report(node, f"calls {ast.unparse(node.func)}")
        given = [*node.args, *(keyword.value for keyword in node.keywords)]
        handed = [argument for argument in given if self._is_user(argument)]
        if handed and not self._may_have(node, handed):
            self._report(node, f"hands {', '.join(map(ast.unparse, handed))} to {ast.unparse(node.func)}")
        self.generic_visit(node)

    def _may_have(self, node: ast.Call, handed: list[ast.expr]) -> bool:
        name = _name(node.func)
        # A function binds itself to any object without a look at it.
        if name in _STATIC or name == "contain" or name.endswith(".__get__") or self._is_original(node):
            return True
        if name in ("next", "iter"):
            return all(isinstance(a, ast.Name) and a.id in self._results for a in handed)
        if isinstance(node.func, ast.Attribute) and _name(node.func.value) in self._containers:
            return True  # kwargs.get(name, default)
        resolved = self._lint.resolve(self._module, name)
        if resolved is None:
            return False
        module, function = resolved
        self.found += self._lint._check(module, function, only=_parameters(function, node, handed))
        return True


def _parameters(function: ast.AST, call: ast.Call, handed: list[ast.expr]) -> set[str]:
    """The parameters of a function of ours that get the user's objects."""
    skip = 0
    if isinstance(function, ast.ClassDef):
        inits = [n for n in function.body if isinstance(n, _Function) and n.name == "__init__"]
        if not inits:
            return set()
        function, skip = inits[0], 1
    assert isinstance(function, _Function)
    names = [p.arg for p in (*function.args.posonlyargs, *function.args.args)][skip:]
    by_place = {name for name, given in zip(names, call.args, strict=False) if given in handed}
    return by_place | {k.arg for k in call.keywords if k.arg and k.value in handed}
