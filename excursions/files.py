"""Writing files so that a kill, a power cut or a full disk leaves no half of one, and reading back what may be damaged.

What is written is on the disk before it gets its name, and the name is on the disk before the next thing is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from excursions.params import UserError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder and renames it to `path` if the block succeeds. Raises OSError for
    what the disk refuses, whatever library met it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path, "partial")
    mode = _mode_of_new(temporary)
    try:
        with _refusals(path):
            yield temporary
        _open_up(temporary, mode)
        _sync(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path` and puts it in place of `path` if the block succeeds. Raises OSError for
    what the disk refuses, whatever library met it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    mode = _mode_of_new(temporary / "a file")
    try:
        with _refusals(path):
            yield temporary
        for part in [*temporary.rglob("*"), temporary]:
            _open_up(part, mode)
            _sync_folder(part) if part.is_dir() else _sync(part)
        old = _beside(path, "old")
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(temporary, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        _sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(path: Path, ending: str) -> Path:
    """A name in the same folder that nobody else makes. The number of the process alone would not do: two containers
    that share a folder may both have it."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{ending}")


def _mode_of_new(path: Path) -> int:
    """The rights that the user's mask leaves to a new file."""
    path.touch()
    mode = path.stat().st_mode & 0o777
    path.unlink()
    return mode


def _open_up(path: Path, mode: int) -> None:
    """Gives a file these rights, or a folder the same; safetensors and tempfile shut others out."""
    with suppress(PermissionError):  # of a file system without rights
        path.chmod(mode | (mode & 0o444) >> 2 if path.is_dir() else mode)


def _sync(path: Path) -> None:
    """Until the disk has it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(path: Path) -> None:
    with suppress(OSError):  # some file systems know no such thing of folders, and then do it by themselves
        _sync(path)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """safetensors tells a full disk by an exception of its own, which holds the number of the system's error."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) or not (number := re.search(r"os error (\d+)", str(error))):
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


def write_json(path: Path, value: object) -> None:
    """Writes `value` as readable JSON, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def json_digest(value: object) -> str:
    """sha256 of a value as JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, kind: TypeAdapter | None = None) -> Any:
    """What a JSON file of ours holds; None if it is not there, and if it cannot be read or is of another kind, which
    is said."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        return json.loads(content.decode()) if kind is None else kind.validate_json(content)
    except (ValueError, RecursionError) as error:
        print(f"{path} cannot be read ({' '.join(str(error).split())[:200]}) and is taken as absent", flush=True)
        return None


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock of a piece of work. Raises UserError if another process has it, or the file system has no locks.

    The system lets go of it when the process ends, however that happens; a file that only exists would not.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{what}: another process is computing this; wait for it or stop it.") from None
    except (OSError, NotImplementedError) as error:
        raise UserError(f"{path} cannot be locked ({error}); use a file system that has locks.") from None
    try:
        yield
    finally:
        lock.release()
