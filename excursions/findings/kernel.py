"""Executes a notebook with papermill, in a kernel of our own: this interpreter, whatever else is set up on the machine.

The notebook in git stays as it is; the executed one is returned.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import excursions
from excursions.params import UserError

if TYPE_CHECKING:
    from nbformat import NotebookNode

# jsonschema would check addresses with it; no notebook has any, and its import builds a parser for seconds.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
LONGEST_TEMPDIR = 70
# Variables that begin so tell Python, IPython, Jupyter and matplotlib to do otherwise than they do by default.
SETTINGS = ("PYTHON", "IPYTHON", "JUPYTER", "MPL", "MATPLOTLIB")


def execute(
    notebook: Path, parameters: Mapping[str, object], meanwhile: Callable[[], None] = lambda: None
) -> NotebookNode:
    """Runs all cells in the notebook's own folder. Several notebooks may run at once.

    parameters: values for the cell tagged `parameters`. meanwhile: is called while the kernel starts. Raises UserError
    for a cell that fails, and for a kernel that dies.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError

    try:
        with _own_kernel(notebook.parents[1], meanwhile) as manager:
            return papermill.execute_notebook(
                notebook,
                None,
                parameters=parameters,
                kernel_name="python3",
                kernel_manager_class=manager,
                cwd=notebook.parent,
                progress_bar=False,
                start_timeout=600,  # seconds; a busy machine is slow, not broken
                shutdown_kernel="immediate",  # a kernel asked politely prints an error about its interruption
            )
    except papermill.PapermillExecutionError as error:
        last = (str(error.evalue).strip() or "no message").splitlines()[-1]
        where = error.source.strip().splitlines()[0] if error.source.strip() else ""
        raise UserError(
            f"notebook {notebook.stem}, code cell {error.exec_count} (`{where}`): {error.ename}: {last}"
        ) from None
    except DeadKernelError:
        raise UserError(
            f"notebook {notebook.stem}: its kernel died, perhaps for lack of memory. Run it again."
        ) from None


@contextlib.contextmanager
def _own_kernel(root: Path, meanwhile: Callable[[], None]) -> Iterator[type]:
    """A class of kernel managers for one notebook: sockets, settings and kernel spec that nothing else shares or sets.

    root: the project's folder, whose ignored scratch/ keeps what matplotlib knows of the fonts: to look for them again
    takes seconds, and a home may be read-only or hold a matplotlibrc.
    """
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager

    # found on a PATH with relative folders it is relative, too, and a kernel starts in another folder
    sys.executable = os.path.abspath(sys.executable)
    path = [str(Path(excursions.__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")]
    # the name of a socket has at most 107 bytes (on macOS 103), which a long TMPDIR can exceed
    place = tempfile.gettempdir() if len(os.fsencode(tempfile.gettempdir())) < LONGEST_TEMPDIR else "/tmp"
    with tempfile.TemporaryDirectory(prefix="kernel-", dir=place) as folder:
        own = {
            "IPYTHONDIR": folder,
            "JUPYTER_CONFIG_DIR": folder,
            "JUPYTER_DATA_DIR": folder,
            "JUPYTER_RUNTIME_DIR": folder,
            "MPLCONFIGDIR": str(root / "scratch" / "matplotlib"),
            "OMP_NUM_THREADS": "1",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a debugger's warning that would be printed
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
        }

        class Manager(AsyncKernelManager):
            def __init__(self, **how: object) -> None:
                super().__init__(
                    transport="ipc",  # no open port
                    ip=f"{folder}/socket",
                    connection_file=f"{folder}/connection.json",
                    kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),  # finds none, so ipykernel's: sys.executable
                    **how,
                )

            async def start_kernel(self, **how: object) -> None:  # type: ignore[override]  # asynchronous there too
                kept = {key: value for key, value in os.environ.items() if not key.startswith(SETTINGS)}
                await super().start_kernel(**how, env=kept | own)
                meanwhile()

        yield Manager
