"""What one process has worked out before and need not work out again, as where it executes many runs.

A key holds all that the value depends on, content rather than places, so that nothing here is ever out of date.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """Values by key, up to a total size; what was not asked for longest is forgotten first. Never write to a value."""

    def __init__(self, most: int, size: Callable[[Value], int] = lambda _: 1) -> None:
        """Args: the total size that is kept; what tells the size of a value."""
        self.most, self.held = most, 0
        self._size, self._guard = size, threading.Lock()
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def recall(self, key: Hashable, work: Callable[[], Value]) -> Value:
        """Return the value of a key; what is not remembered is worked out, and an error is not remembered."""
        with self._guard:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        value = work()
        with self._guard:
            if key not in self._values:  # another thread may have been first
                self._values[key] = value
                self.held += self._size(value)
            while self.held > self.most:
                self.held -= self._size(self._values.popitem(last=False)[1])
        return value

    def forget(self) -> None:
        """Forget everything."""
        with self._guard:
            self._values.clear()
            self.held = 0
