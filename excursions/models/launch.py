"""Whether this process is one of several, starting them, and ending them together."""

from __future__ import annotations

import os
import sys
import threading
import time


def is_launched() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def is_first() -> bool:
    """Whether this process is alone or the first of those that a launcher started, told before they are joined."""
    return os.environ.get("RANK", "0") == "0"


def relaunch(count: int) -> None:
    """Starts this very command again as `count` processes, by accelerate's launcher, in place of this process."""
    import torch

    kind = [] if torch.cuda.is_available() else ["--multi_gpu"]  # the launcher's word for several of them, on a CPU too
    options = ["--num_machines", "1", "--main_process_port", "0", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(count), *kind, *options]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.execv(sys.executable, [*launcher, "-m", "excursions", *sys.argv[1:]])


def leave() -> None:
    """Ends the connection to the other processes, as the last thing: without it gloo's threads, still at work while
    Python exits, abort a process now and then, and its launcher reports a failure."""
    torch = sys.modules.get("torch")  # a process that has not imported it is connected to none
    if torch is not None and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def end_with(starter: int) -> None:
    """Makes this process, a worker, end when the process `starter` is gone, however that ended."""

    def watch() -> None:
        try:
            while True:
                os.kill(starter, 0)  # asks whether it exists, does nothing to it
                time.sleep(1)
        except ProcessLookupError:
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
