"""How many threads the steps of a training take while something else keeps a core busy.

The threads of a product wait for the last one of them: where a core is taken, many together can be several times slower
than one alone. How many there are changes no number (`tests/training/test_pace.py`), so that a training may change it
between two steps. Needs no torch: whoever makes a `Threads` says how the number is set.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median

FIRST = 3  # steps before the first probe
SHARE = 0.03  # of the time, at most, that probes may take beyond what other steps would have taken
FASTER = 1.15  # a probe has to be faster by so much, twice in a row, before it counts
LEAST = 0.1  # of its time, that a probe counts as having cost
FALL = 0.7  # a rate below this share of the best one so far is looked into at once
KEPT = 5  # newest steps whose rates count


class Threads:
    """Lets a training go on with the faster one of two numbers of threads, one and `most`, by a probe now and then.

    Example:
        for step in training.steps():
            with threads.timed(tokens):
                ...  # forward and backward

    Attributes:
        note: a sentence once one thread was faster than all that the run should have; empty before.
    """

    def __init__(
        self,
        most: int,
        use: Callable[[int], object],
        tell: Callable[[int, str], object] = lambda _count, _message: None,
        clock: Callable[[], float] = time.perf_counter,
        *,
        first: int | None = None,
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        """Begin.

        Args:
            most: the larger number of threads.
            use: has the products take another number.
            tell: is told of a change, in words.
            clock: seconds.
            first: the number to begin with: `most`, or one for a run that should have no more.
            has_room: whether cores are idle, without which more threads are not even tried.
        """
        self.most, self.note = most, ""
        self._use, self._tell, self._clock, self._has_room = use, tell, clock, has_room
        self._first = most if first is None else first
        self._count = self._in_use = self._first  # what steps take, and what this one takes, a probe perhaps
        self._rates: deque[float] = deque(maxlen=KEPT)  # of steps that were no probes, since the last change
        self._best = 0.0  # the best median of these
        self._won = 0  # probes in a row that were faster
        self._credit = 0.0  # seconds that probes may take
        self._cost = 0.0  # what the last probe took beyond other steps
        self._probed = False

    @contextmanager
    def timed(self, tokens: int) -> Iterator[None]:
        """Time the passes of one step over so many tokens, and decide on the threads of the next one."""
        if self.most == 1:
            yield
            return
        self._use(self._in_use)  # another training of this process may have used another number since
        began = self._clock()
        yield
        self._after(tokens, max(self._clock() - began, 1e-9))
        self._use(self._count)

    def _after(self, tokens: int, seconds: float) -> None:
        rate = tokens / seconds
        if self._in_use != self._count:
            usual = median(self._rates)
            self._cost = max(seconds - tokens / usual, LEAST * seconds)
            self._credit -= self._cost
            self._won = self._won + 1 if rate > FASTER * usual else 0
            if self._won == 2:
                self._cost = tokens / usual - seconds  # what it would take to look at the old number again
                self._change(rate, usual)
        else:
            self._rates.append(rate)
            self._credit += SHARE * seconds
        probes = 0 < self._won < 2 or self._is_due()
        self._in_use = (1 if self._count > 1 else self.most) if probes else self._count

    def _is_due(self) -> bool:
        if len(self._rates) < FIRST:
            return False
        usual = median(self._rates)
        has_fallen = usual < FALL * self._best
        self._best = usual if has_fallen else max(self._best, usual)  # a fall is looked into once
        is_due = not self._probed or has_fallen or self._credit > self._cost
        is_due = is_due and (self._count > 1 or self._has_room())
        self._probed |= is_due
        return is_due

    def _change(self, rate: float, before: float) -> None:
        self._count = 1 if self._count > 1 else self.most
        self._rates.clear()
        self._won, self._credit, self._best = 0, 0.0, 0.0
        others = f"another process keeps a core busy: {self.most} threads"
        if self._count == 1:
            message = f"{others} are {rate / before:.1f} times slower than one here; goes on with one"
            if self._first > 1:
                self.note = self.note or f"fine-tuning: {message}. Its numbers stay the same, its time does not"
        else:
            message = f"a core is free{' again' if self._first > 1 else ''}: goes on with {self.most} threads"
        self._tell(self._count, message)
