"""The suite of checkpoints of our own pretraining: is it there, and was it made by this code?"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from excursions import tree
from excursions.files import locked, read_json, write_json
from excursions.models.launch import is_first
from excursions.models.model import one_thread
from excursions.params import Scale, UserError
from excursions.results import schemas
from excursions.study import code
from excursions.training import pretrain

STEPS = 3  # of pretraining that are done again to show that changed code computes the same
TOLERANCE = 1e-3  # of their losses, relative: what another machine's rounding makes of them


def pretrain_suite(scale: Scale, root: Path, scale_name: str, suite: str) -> None:
    """Pretrains a suite, if it is not there. One whose code has changed since is shown to be equal by its first steps,
    and stamped so; if it is not equal it is trained again. Raises UserError if another process is at it."""
    folder, scratch = (of(root, scale_name, suite) for of in (tree.suite_folder, tree.pretraining_scratch))
    about = read_json(folder / "suite.json", schemas.SUITE) or {}
    modules = code.pretraining_modules(scale)
    stamp = code.stamp(modules, "computed by it")
    is_there = about.get("fingerprint") == pretrain.fingerprint(scale) and all(
        (folder / name / "model.safetensors").is_file() for name in scale.pretrain.save
    )
    if is_there and about.get("code", {}).get("digest") == stamp["digest"]:
        if is_first():
            print(f"the suite in {folder} is there already", flush=True)
        return
    if is_there:
        largest = difference(scale, folder)  # by all processes together, which find the same
        if largest <= TOLERANCE:
            same = "exactly" if largest == 0 else f"within {largest:.1g} of each loss"
            stamp["shown"] = f"{STEPS} training steps done again, equal {same}"
            if is_first():
                write_json(folder / "suite.json", about | {"code": stamp})
                print(f"the suite in {folder} is there already; its code changed and gives the same ({same})")
            return
        if is_first():
            print(f"the code of the suite in {folder} changed, and its losses by {largest:.2g}: it is trained again")
    if is_first():
        with locked(scratch / "lock", f"the suite {suite} of {scale_name}"):
            pretrain.pretrain(scale, folder, scratch)
            write_json(folder / "suite.json", read_json(folder / "suite.json") | {"code": stamp})
    else:
        pretrain.pretrain(scale, folder, scratch)


def difference(scale: Scale, folder: Path) -> float:
    """The largest difference, relative, between the first losses in the log of a suite and those that training gives
    again; infinite where there is no log."""
    one_thread()
    file = folder / "pretraining.parquet"
    if not file.is_file():
        return float("inf")
    try:
        written = pd.read_parquet(file, columns=["loss"])["loss"].iloc[:STEPS].astype(float)
    except (OSError, ValueError, KeyError) as error:  # of pyarrow, too
        raise UserError(
            f"{file}: {' '.join(str(error).split())[:200]}. `git checkout -- {file}` brings it back."
        ) from None
    if not len(written) or not (written > 0).all():
        raise UserError(f"{file}: its losses are to be numbers above 0. `git checkout -- {file}` brings it back.")
    again = pretrain.first_losses(scale, len(written))
    return max(abs(a - b) / abs(b) for a, b in zip(again, written, strict=True))
