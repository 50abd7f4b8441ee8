"""math-verify in a process of its own, with a time limit that cannot hang or kill the run.

math-verify's own limits rest on SIGALRM: main thread only, whole seconds, no help against one long call in C
or against memory. Here it runs without them in a separate process, started at the first question, kept for
the next ones, killed when it overstays and then replaced. Any thread may ask, and so may the processes of a
pool (so it is no multiprocessing child: daemonic processes may not have any). It ends with its caller.
"""

from __future__ import annotations

import atexit
import os
import resource
import signal
import subprocess
import sys
import threading
from functools import lru_cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from excursions.params import UserError

WALL_LIMIT_FACTOR = 20  # times the time limit, by the clock, for a process that is stuck without computing
START_LIMIT = 600.0  # seconds by the clock; importing sympy takes one or two, over a hundred on a crowded machine
MEMORY_LIMIT = 2 << 30  # bytes of data of the process


class _Worker:
    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        # One hash seed, and below one random seed: sympy goes the same way through the same pair every time.
        environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(path)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", f"from {__name__} import _serve; _serve({theirs.fileno()})"],
            env=environment,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the caller alone, who stops the worker
        )
        theirs.close()
        started = "it ended at once"
        try:
            started = self.connection.recv() if self.connection.poll(START_LIMIT) else "it took too long"
        except (EOFError, OSError):
            pass
        finally:
            if started != "ready":
                self.stop()
        if started != "ready":
            raise UserError(f"math-verify did not start: {started}. Remedy: pip install 'math-verify[antlr4_9_3]'")

    def stop(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


_worker: _Worker | None = None
_lock = threading.Lock()


@lru_cache(maxsize=5_000)  # the samples of one question repeat their answers
def verify(prediction: str, gold: str, time_limit: float) -> bool:
    """math-verify's verdict on two texts; False if it takes over `time_limit` seconds or breaks the process.

    The limit is processor time: a loaded machine grades the same. Raises UserError if math-verify is missing.
    """
    global _worker
    with _lock:
        while True:
            _worker = _worker or _Worker()
            try:
                _worker.connection.send((prediction, gold, time_limit))
                break
            except OSError:  # killed from outside since its last verdict, which says nothing about this pair
                _stop_worker()
        verdict = None
        try:
            if _worker.connection.poll(WALL_LIMIT_FACTOR * time_limit):
                verdict = _worker.connection.recv()
        except (EOFError, OSError):
            pass
        finally:
            if verdict is None:  # out of time, dead, or the caller was interrupted
                _stop_worker()
        return bool(verdict)


@atexit.register
def _stop_worker() -> None:
    global _worker
    if _worker is not None:
        _worker.stop()
        _worker = None


def _after_fork() -> None:
    """A forked child starts without a worker: the parent's belongs to the parent."""
    global _worker, _lock
    if _worker is not None:
        _worker.connection.close()
        _worker.process.returncode = 0  # no child of this process, so there is nothing to wait for
    _worker, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def _serve(descriptor: int) -> None:
    """The worker's life: a verdict for each (prediction, gold, seconds), until the other end is closed."""
    connection = Connection(descriptor)
    try:
        import logging

        import math_verify.grader
        import sympy.core.random
    except ImportError as error:
        connection.send(str(error))
        return
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    # SIGPROF's default action ends the process even inside one long C call, and even if the caller is gone.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGPROF])

    math_verify.grader.sympy_numeric_eq = _equal_numbers

    def parse(text: str) -> list:
        # A formula is read whole, as LaTeX; math-verify would take the last number of one that it cannot read.
        targets = [math_verify.LatexExtractionConfig()]
        if not text.startswith("\\boxed{"):
            targets.append(math_verify.ExprExtractionConfig())
        return math_verify.parse(text, targets, parsing_timeout=None)

    parse_gold = lru_cache(maxsize=1_000)(parse)
    math_verify.verify(parse_gold("$x$"), parse("$x$"), timeout_seconds=None)  # loads the rest of the parser
    connection.send("ready")
    while True:
        try:
            prediction, gold, seconds = connection.recv()
        except EOFError:
            return
        sympy.core.random.seed(0)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            verdict = math_verify.verify(parse_gold(gold), parse(prediction), timeout_seconds=None)
        except Exception:  # whatever sympy stumbles over is no right answer
            verdict = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        connection.send(bool(verdict))


def _equal_numbers(a, b, *precision) -> bool:
    """In place of math-verify's own comparison, whose absolute tolerance makes all tiny numbers equal.

    Numbers without decimals are equal if they are the same, to 30 digits where they are irrational; a decimal may be
    a millionth off. Called for the members of tuples, sets and matrices too.
    """
    from math_verify.grader import get_pct_val, safe_sympy_doit
    from sympy import Float, MatrixBase, Number

    a, b = (safe_sympy_doit(get_pct_val(x, x)) for x in (a, b))
    if isinstance(a, MatrixBase) and isinstance(b, MatrixBase):
        return a.shape == b.shape and all(_equal_numbers(x, y) for x, y in zip(a.flat(), b.flat(), strict=True))
    decimal = a.has(Float) or b.has(Float)
    if isinstance(a, Number) and isinstance(b, Number) and not decimal:
        return a == b
    if a.free_symbols or b.free_symbols:
        return (a - b).evalf(15, chop=True) == 0
    difference, scale = (a - b).evalf(50), abs(b.evalf(50))
    return bool(abs(difference) <= (min(scale, 1) * 1.000001e-6 if decimal else scale * 1e-30))
