"""Making everything again by force: what comes out with the same bytes is counted, what does not is named."""

import shutil
import subprocess
import sys

import pytest
from study_file import write_study

from excursions.cli import main
from excursions.study.smoke import without_git

STAGES = """stages:
  data:
    cmd: python -c "raise SystemExit('not a result')"
  early_rl:
    matrix: {scale: [nano]}
    cmd: python draw.py a.svg --name notebook early_rl
    outs: [{a.svg: {cache: false}}]
  site:
    matrix: {scale: [nano]}
    cmd: python draw.py b.html
    deps: [a.svg]
    outs: [{b.html: {cache: false}}]
"""


@pytest.fixture(params=["checkout", "unpacked archive"])
def project(request, tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_NO_ANALYTICS", "true")
    write_study(tmp_path)
    (tmp_path / "dvc.yaml").write_text(STAGES)
    (tmp_path / "draw.py").write_text("import sys; open(sys.argv[1], 'w').write('drawn')")
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    if request.param == "unpacked archive":
        shutil.rmtree(tmp_path / ".git")
        without_git(tmp_path)
    return tmp_path


def test_what_is_equal_is_counted_and_what_differs_is_named(project, capfd):
    assert main(["verify", "--root", str(project)]) == 2
    assert "dvc.lock does not exist" in capfd.readouterr().err
    made = [sys.executable, "-m", "dvc", "repro", "--single-item", "early_rl@nano", "site@nano"]
    subprocess.run(made, cwd=project, check=True)
    assert main(["verify", "--root", str(project)]) == 0
    printed = capfd.readouterr().out
    assert "Running stage 'early_rl@nano'" in printed and printed.endswith("2 of 2 byte-identical\n")
    (project / "a.svg").write_text("drawn by hand")
    with pytest.raises(SystemExit) as left:
        main(["verify", "--root", str(project)])
    assert left.value.code == 1 and capfd.readouterr().out.endswith("a.svg\n1 of 2 byte-identical\n")
