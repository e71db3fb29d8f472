"""All that a search in MLflow finds: the searches of its client answer by the page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def found_by(search: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Any]:
    """Each result of `search`, a method of `MlflowClient` that takes a `page_token`. Raises what that does."""
    token = None
    while True:
        page = search(*args, **kwargs, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
