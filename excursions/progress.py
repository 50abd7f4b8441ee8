"""Showing how far long work is, and how long it will still take."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


class Progress:
    """Steps done of a total: a bar in a terminal, a line about every 20 seconds in a log, each with the time left."""

    def __init__(
        self,
        label: str,
        total: int,
        done: int = 0,
        unit: str = "steps",
        quiet: bool = False,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """quiet: say nothing, as all but the main one of several processes do."""
        self.label, self.total, self.done, self.first = label, total, done, done
        self.start = self.last = time.monotonic()
        self.say = (lambda line: None) if quiet else say or (lambda line: print(line, flush=True))
        shown = say is None and not quiet and sys.stderr.isatty()
        self.bar = tqdm(desc=label, total=total, initial=done, unit=unit) if shown else None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()

    def step(self, **numbers: float) -> None:
        """One step more; `numbers` are shown beside it."""
        self.done += 1
        shown = " ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        if self.bar is not None:
            self.bar.set_postfix_str(shown, refresh=False)
            self.bar.update()
            if self.done == self.total:
                self.bar.close()
            return
        now = time.monotonic()
        if now - self.last > 20 or self.done == self.total:
            self.last = now
            left = (now - self.start) / (self.done - self.first) * (self.total - self.done)
            self.say(
                f"{self.label}: {self.done}/{self.total} {shown} elapsed {clock(now - self.start)} left {clock(left)}"
            )
