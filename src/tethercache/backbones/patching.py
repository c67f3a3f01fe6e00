"""Changing a model for a while: one attribute, or all that several users share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

Install = Callable[[Any, ExitStack], None]
"""Changes a model, and tells the stack how to undo it."""


def override(undo: ExitStack, owner: Any, name: str, value: Any) -> None:
    """Set an attribute of an instance; undone, it has again what it or its class had."""
    if name in vars(owner):
        undo.callback(setattr, owner, name, vars(owner)[name])
    else:
        undo.callback(delattr, owner, name)
    setattr(owner, name, value)


def put_back(undo: ExitStack, owner: Any, *names: str) -> None:
    """Let attributes of an instance be, undone, what they are now, whatever happens to them."""
    before = {name: vars(owner)[name] for name in names if name in vars(owner)}

    def undone() -> None:
        for name in names:
            vars(owner).pop(name, None)
        vars(owner).update(before)

    undo.callback(undone)


@dataclass
class _Model:
    """What is changed of one model, and for whom."""

    users: list[object] = field(default_factory=list)
    installed: set[Install] = field(default_factory=set)
    undo: ExitStack = field(default_factory=ExitStack)


class Patches:
    """Changes to models that are in place while they have a user.

    Users come and go in any order and in any thread. A user may also go when the garbage collector
    closes a forgotten generator, which happens at any moment, here in between as well; it then goes
    as soon as what is under way is done.
    """

    def __init__(self) -> None:
        self._models: dict[int, _Model] = {}
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._leaving: deque[tuple[int, object]] = deque()

    @contextmanager
    def used(self, model: Any, *installs: Install) -> Iterator[None]:
        """Keep changes in place inside the `with` block.

        Args:
            model: what is changed.
            *installs: the changes; each is made once, however many users there are.
        """
        user, place = object(), id(model)
        try:
            with self._turn():
                changed = self._models.setdefault(place, _Model())
                changed.users.append(user)
                for install in installs:
                    if install not in changed.installed:
                        changed.installed.add(install)
                        install(model, changed.undo)
            yield
        finally:
            self._leaving.append((place, user))
            if self._holder != threading.get_ident():
                with self._turn():
                    pass

    @contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            with self._lock:
                self._holder = threading.get_ident()
                try:
                    self._let_go()
                    yield
                    self._let_go()
                finally:
                    self._holder = None
        finally:
            if self._leaving:  # somebody who left in the last moment
                with self._turn():
                    pass

    def _let_go(self) -> None:
        while self._leaving:
            place, user = self._leaving.popleft()
            changed = self._models.get(place)
            if changed is None or user not in changed.users:
                continue  # interrupted before it came in
            changed.users.remove(user)
            if not changed.users:
                del self._models[place]
                changed.undo.close()
