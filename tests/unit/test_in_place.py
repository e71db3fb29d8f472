"""A function with something around it is the same object, and behaves as without."""

from __future__ import annotations

import contextlib
import functools
import inspect
import pickle
import sys
import traceback
import warnings
from unittest import mock

import cloudpickle
import pytest

from carbon_otel.instrumentation.in_place import FILE, Around, Changed, innermost

calls: list[object] = []


@contextlib.contextmanager
def noted(first: object):
    calls.append(first)
    try:
        yield lambda result: result
    except Exception as error:
        calls.append(error)
        raise


def note(first: object = None, /, *args: object, **kwargs: object):
    return noted(first)


def nothing(first: object = None, /, *args: object, **kwargs: object) -> None:
    calls.append(first)


@pytest.fixture(autouse=True)
def changed():
    calls.clear()
    made = Changed()
    yield made
    made.undo()


def plain(a, b=2, *, c=3):
    return a, b, c


def only_positional(a, b=2, /, c=3, *rest, d, e=5, **more):
    return a, b, c, rest, d, e, more


def variadic(*args, **kwargs):
    return args, kwargs


def without_parameters():
    return "result"


def annotated(a: int, b: str = "text") -> list[str]:
    """Has a docstring."""
    return [b] * a


def closure():
    seen = []

    def inner(a):
        seen.append(a)
        return seen, lambda: a

    return inner


class Parent:
    def method(self, a):
        return ["parent", a]


class Child(Parent):
    def method(self, a):
        return [*super().method(a), "child", __class__]


CALLS = [
    (plain, (1,), {}),
    (plain, (1, 4), {"c": 5}),
    (plain, (), {"b": 1, "a": 2}),
    (only_positional, (1, 2, 3, 4, 5), {"d": 6, "f": 7}),
    (only_positional, (1,), {"d": 6, "a": 7}),
    (variadic, (), {}),
    (variadic, (1, 2), {"self": 3}),
    (without_parameters, (), {}),
    (annotated, (2,), {}),
    (lambda value: value, (1,), {}),
]


@pytest.mark.parametrize("enter", [note, nothing])
@pytest.mark.parametrize(("function", "args", "kwargs"), CALLS)
def test_every_form_of_parameters(changed, enter, function, args, kwargs):
    expected, signature = function(*args, **kwargs), inspect.signature(function)
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    before = function.__code__, dict(vars(function))
    changed.put(function, Around(enter))
    assert function(*args, **kwargs) == expected and len(calls) == 1
    assert inspect.signature(function) == signature
    assert function.__code__.co_varnames[: function.__code__.co_argcount] == names
    changed.undo()
    assert (function.__code__, vars(function)) == before
    assert function(*args, **kwargs) == expected and len(calls) == 1


def test_the_arguments_and_the_result_are_handed_over(changed):
    @contextlib.contextmanager
    def see(given, /, *args, **kwargs):
        calls.append((given, args, kwargs))

        def seen(result):
            calls.append(result)
            return result

        yield seen

    for function in (plain, only_positional, variadic, without_parameters):
        changed.put(function, Around(see, function.__name__))
    plain("first", "second")
    plain(b="second", a="named")
    only_positional(1, d=2, given=3)
    variadic("of many", "second", given=1)
    without_parameters()
    assert calls == [
        ("plain", ("first", "second"), {"c": 3}),
        ("first", "second", 3),
        ("plain", ("named", "second"), {"c": 3}),
        ("named", "second", 3),
        ("only_positional", (1, 2, 3), {"d": 2, "e": 5, "given": 3}),
        (1, 2, 3, (), 2, 5, {"given": 3}),
        ("variadic", ("of many", "second"), {"given": 1}),
        (("of many", "second"), {"given": 1}),
        ("without_parameters", (), {}),
        "result",
    ]


@pytest.mark.parametrize("arguments", [((), {}), ((1, 2, 3), {}), ((1,), {"unknown": 1}), ((1,), {"a": 1})])
def test_a_wrong_call_raises_the_same_error_from_the_same_place(changed, arguments):
    def error():
        with pytest.raises(TypeError) as caught:
            plain(*arguments[0], **arguments[1])
        return str(caught.value), len(traceback.extract_tb(caught.tb))

    before = error()
    changed.put(plain, Around(note))
    assert error() == before and calls == []


def test_closures_and_super(changed):
    inner, child = closure(), Child()
    expected = inner(1)[1](), child.method(2)
    changed.put(inner, Around(note))
    changed.put(Child.method, Around(note))
    assert (inner(1)[1](), child.method(2)) == expected
    assert inner(3)[0] == [1, 1, 3]
    assert calls == [1, child, 3]


def test_a_debugger_can_look_at_the_variables_of_the_frame(changed):
    def look(*_: object) -> None:
        calls.append(dict(sys._getframe(1).f_locals))

    child = Child()
    changed.put(Child.method, Around(look))
    child.method(2)
    assert [calls[0][name] for name in ("self", "a", "__class__")] == [child, 2, Child]
    inner = closure()
    changed.put(inner, Around(look))
    inner(1)
    assert set(inner.__code__.co_freevars) <= calls[1].keys()


def test_work_that_is_done_later_is_left_alone(changed):
    def generator(a):
        yield a

    async def coroutine(a):
        return a

    async def stream(a):
        yield a

    for function in (generator, coroutine, stream):
        code = function.__code__
        changed.put(function, Around(note))
        assert function.__code__ is code


def test_names_documentation_source_and_pickles(changed):
    held, source, pickled = annotated, inspect.getsource(annotated), pickle.dumps(annotated)
    changed.put(annotated, Around(note))
    assert held is annotated and held(1) == ["text"] and calls == [1]
    assert inspect.getsource(annotated) == source
    assert pickle.dumps(annotated) == pickled and pickle.loads(pickled) is annotated
    assert annotated.__doc__ == "Has a docstring." and annotated.__name__ == "annotated"
    assert annotated.__code__.co_name == "annotated"
    assert mock.create_autospec(annotated)(1) is not None
    with pytest.raises(TypeError):
        mock.create_autospec(annotated)()


def fails(a):
    warnings.warn("seen at the caller", FutureWarning, stacklevel=2)
    warnings.warn("seen at its caller", UserWarning, stacklevel=3)
    warnings.warn("seen here", DeprecationWarning)  # noqa: B028 - the place is what is tested
    raise KeyError(a)


def outcome():
    """The warnings with their places, and the traceback without frames of ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fails("key")
        except KeyError as error:
            frames = traceback.extract_tb(error.__traceback__)
            ours = [frame for frame in frames if frame.filename.endswith(FILE)]
            others = [
                (frame.filename, frame.lineno, frame.name)
                for frame in frames
                if not frame.filename.endswith(FILE)
            ]
            shown = [(str(w.message), w.category, w.filename, w.lineno) for w in caught]
            return shown, others, (error.args, error.__context__, error.__cause__), len(ours)
    raise AssertionError("no error")


@pytest.mark.parametrize("enter", [note, nothing])
def test_warnings_and_tracebacks_have_their_places(changed, enter):
    outcomes = []
    for change in (lambda: None, lambda: changed.put(fails, Around(enter))):
        change()
        outcomes.append(outcome())
    (*before, none), (*after, ours) = outcomes
    assert after == before and (none, ours) == (0, 1)


def test_the_order_of_patches_makes_no_difference(changed):
    """Another patch wraps the function before, or after; ours is inside of it both times, and leaves no trace."""

    def patched(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            calls.append("the other patch")
            return function(*args, **kwargs)

        return wrapper

    for order in ("before", "after"):
        calls.clear()

        def target(a):
            calls.append("the call")
            return a

        holder = type("Holder", (), {"target": target})
        if order == "before":
            holder.target = patched(holder.target)
            changed.put(vars(holder)["target"], Around(note))
        else:
            changed.put(vars(holder)["target"], Around(note))
            holder.target = patched(holder.target)
        holder.target("a")
        assert calls == ["the other patch", "a", "the call"], order
        held = holder.target
        changed.undo()
        assert holder.target is held and not hasattr(target, "__wrapped__")
        holder.target("a")
        assert calls[3:] == ["the other patch", "the call"], order


def test_nothing_is_put_around_twice(changed):
    changed.put(plain, Around(note))
    changed.put(plain, Around(note))
    other = Changed()
    other.put(plain, Around(note))
    plain(1)
    assert calls == [1]
    other.undo()
    plain(1)
    assert calls == [1, 1]


def test_descriptors_are_looked_into_and_other_objects_left_alone(changed):
    class Lazy:
        @property
        def method(self):
            return plain

    assert innermost(vars(Lazy)["method"], {property: "fget"}) is vars(Lazy)["method"].fget
    for other in (
        len,
        functools.partial(plain),
        staticmethod(plain),
        mock.Mock(),
        3,
        None,
        vars(Lazy)["method"],
    ):
        assert innermost(other) is None
    endless = functools.wraps(plain)(lambda a: a)
    endless.__wrapped__ = endless
    assert innermost(endless) is endless


def test_no_function_is_kept_alive(changed):
    import gc
    import weakref

    function = closure()
    changed.put(function, Around(note))
    gone = weakref.ref(function)
    del function
    gc.collect()
    assert gone() is None


def test_a_function_pickled_by_value_is_the_users_own(changed, tmp_path):
    """It loads where carbon_otel cannot be imported, and there it has all that it uses."""
    namespace = {"__name__": "__main__", "FACTOR": 3}
    exec("def scaled(a, b=2):\n    return FACTOR * a * b\n", namespace)
    changed.put(namespace["scaled"], Around(note))
    (tmp_path / "function").write_bytes(cloudpickle.dumps(namespace["scaled"]))
    loaded = run_without_carbon_otel(
        "import cloudpickle\n"
        f"function = cloudpickle.loads(open({str(tmp_path / 'function')!r}, 'rb').read())\n"
        "import inspect\n"
        "print(function(5), inspect.signature(function))"
    )
    assert loaded == "30 (a, b=2)\n"
    here = cloudpickle.loads((tmp_path / "function").read_bytes())
    calls.clear()
    changed.put(here, Around(note))
    assert here(5) == 30 and calls == [5]
    assert frames_of_ours(here) == 1
    changed.undo()
    calls.clear()
    assert here(5) == 30 and calls == []


def frames_of_ours(function):
    """How many frames of ours an error of the function has."""
    with pytest.raises(TypeError) as caught:
        function(object())
    return len(traceback.extract_tb(caught.tb)) - 2


def run_without_carbon_otel(program: str) -> str:
    import subprocess

    block = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'carbon_otel':\n"
        "            raise ImportError('not installed: ' + name)\n"
        "sys.meta_path.insert(0, Block())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", block + program], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
