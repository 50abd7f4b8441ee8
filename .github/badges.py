"""Writes the address of the repository on GitHub into what needs it: badges into README.md, the address itself into
CITATION.cff and the notebook that Colab opens. `make badges REPOSITORY=owner/name`; the next time it replaces them."""

import re
import sys
from pathlib import Path

NOTEBOOK = "notebooks/00_start_here.ipynb"


def write(root: Path, repository: str) -> None:
    """Raises SystemExit for what is no owner/name."""
    if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]+", repository):
        sys.exit(f"'{repository}' is no repository; accepted: owner/name, as in make badges REPOSITORY=owner/name.")
    address, (owner, name) = f"https://github.com/{repository}", repository.split("/")
    runs = f"{address}/actions/workflows/ci.yml"
    colab, binder = "https://colab.research.google.com", "https://mybinder.org"
    badges = {
        "tests": (f"{runs}/badge.svg", runs),
        "results": ("https://img.shields.io/badge/results-site-blue", f"https://{owner}.github.io/{name}/"),
        "Colab": (f"{colab}/assets/colab-badge.svg", f"{colab}/github/{repository}/blob/main/{NOTEBOOK}"),
        "Binder": (f"{binder}/badge_logo.svg", f"{binder}/v2/gh/{repository}/main?urlpath=lab/tree/{NOTEBOOK}"),
    }
    shown = "\n".join(f"[![{what}]({image})]({target})" for what, (image, target) in badges.items())
    _replace(root / "README.md", r"(?s)(<!-- badges[^\n]*-->\n).*?(<!-- end of badges -->)", rf"\1{shown}\n\2")
    _replace(root / NOTEBOOK, r'address = [^\n]*(\\n",)', rf'address = \\"{address}\\"\1')
    _replace(root / "CITATION.cff", r"(repository-code: .*\n)?license: ", f"repository-code: {address}\nlicense: ")


def _replace(file: Path, pattern: str, by: str) -> None:
    text, count = re.subn(pattern, by, file.read_text(encoding="utf-8"))
    assert count == 1, f"{file} has {count} places for it"
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parents[1], sys.argv[1])
