"""Writing files so that a kill or a full disk never leaves half a file, and showing the progress of long work."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder and renames it to `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path` and puts it in place of `path` if the block succeeds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Writes `value` as readable JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        say: Callable[[str], None] | None = None,
        quiet: bool = False,
    ) -> None:
        """quiet: say nothing, as all but the main one of several processes do."""
        self.label, self.total, self.done, self.first = label, total, done, done
        self.start = self.last = time.monotonic()
        self.say = (lambda line: None) if quiet else say or (lambda line: print(line, flush=True))
        shown = say is None and not quiet and sys.stderr.isatty()
        self.bar = tqdm(desc=label, total=total, initial=done) if shown else None

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
