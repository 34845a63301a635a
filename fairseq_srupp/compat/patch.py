"""How the repairs take hold: a function of fairseq is replaced by one that gets the original first."""

import functools
import inspect
import sys
from typing import Any, Callable


def wrap(owner: Any, name: str) -> Callable[[Callable], Callable]:
    """Decorator: `owner.name`, a function of a module or a method of a class, becomes the decorated function.

    It is called with the original in front of the arguments. fairseq keeps state in attributes of its
    functions (`save_checkpoint.best`) and finds the functions through their modules, so the replacement
    carries it on.
    """
    original = getattr(owner, name)
    is_static = inspect.isclass(owner) and isinstance(inspect.getattr_static(owner, name), staticmethod)

    def decorator(replacement: Callable) -> Callable:
        @functools.wraps(original)
        def wrapped(*args, **kwargs):
            return replacement(original, *args, **kwargs)

        setattr(owner, name, staticmethod(wrapped) if is_static else wrapped)
        return wrapped

    return decorator


def wrap_where_there(owner: Any, name: str) -> Callable[[Callable], Callable]:
    """Decorator: like `wrap`, of what some trees of fairseq do not have (family.py asks all for what `wrap` replaces)."""
    return wrap(owner, name) if hasattr(owner, name) else lambda replacement: replacement


def wrap_command(command: str, name: str) -> Callable[[Callable], Callable]:
    """Decorator: like `wrap`, of a function of fairseq_cli.`command` where this process has it: imported, or run as
    `python -m`, or both."""

    def decorator(replacement: Callable) -> Callable:
        for module in (sys.modules.get(f"fairseq_cli.{command}"), sys.modules["__main__"]):
            if getattr(getattr(module, "__spec__", None), "name", None) == f"fairseq_cli.{command}":
                wrapped = wrap(module, name)(replacement)
                # in a process that was spawned by `python -m` the functions have a namespace beside the module's
                inspect.unwrap(module.main).__globals__[name] = wrapped
        return replacement

    return decorator
