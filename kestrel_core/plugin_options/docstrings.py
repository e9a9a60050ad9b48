"""The documentation of a class's attributes, where the source has it."""

import ast
import inspect
import textwrap

__all__ = ["attribute_docstrings"]


def attribute_docstrings(kind: type) -> dict[str, str]:
    """Return the string literals below the attributes of a class and its bases, each as one line.

    Python throws them away, so they are read from the source; without source there are none.
    """
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        found.update(_own_docstrings(each))
    return found


def _own_docstrings(kind: type) -> dict[str, str]:
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # no source, or a class that is built in
        return {}
    (definition,) = ast.parse(textwrap.dedent(source)).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        match statement, after:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = " ".join(text.replace("`", "").split())
            case _:
                pass
    return found
