"""A kill or a full disk leaves what was there."""

import errno

import pytest

from excursions.files import whole_file, whole_folder, write_json
from excursions.progress import Progress, clock


def test_a_file_is_whole_or_untouched(tmp_path):
    file = tmp_path / "a.json"
    write_json(file, {"old": 1})
    with pytest.raises(OSError), whole_file(file) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert '"old"' in file.read_text() and list(tmp_path.iterdir()) == [file]


def test_a_folder_is_whole_or_untouched(tmp_path):
    folder = tmp_path / "run"
    with whole_folder(folder) as temporary:
        (temporary / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt), whole_folder(folder) as temporary:
        (temporary / "a").write_text("new")
        raise KeyboardInterrupt
    assert (folder / "a").read_text() == "old" and list(tmp_path.iterdir()) == [folder]
    with whole_folder(folder) as temporary:
        (temporary / "b").write_text("new")
    assert [f.name for f in folder.iterdir()] == ["b"] and list(tmp_path.iterdir()) == [folder]


def test_progress_says_what_is_done_and_left():
    said = []
    progress = Progress("training", 3, done=1, say=said.append)
    progress.step(reward=0.25)
    progress.step(reward=0.5)
    assert len(said) == 1 and said[0].startswith("training: 3/3 reward 0.5 ") and "left 0:00:00" in said[0]
    assert clock(3725) == "1:02:05"
