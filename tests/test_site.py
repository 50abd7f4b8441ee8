"""The site: its pages say what the tables say, link to nothing that is not there, and work in a real browser."""

import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from markupsafe import Markup
from study_file import write_study
from synthetic import make_study

from excursions import params
from excursions.data.nano import problems
from excursions.findings import claims, explorer, notebook, pages, site
from excursions.results import tables as results

ROOT = Path(__file__).parents[1]
STRAY = "<script>document.title = 'taken over'</script>"
QUESTION = "tom has 12 pens . ann has 7 pens . tom buys 3 . ann gives 2 to tom . how many has each now ?"
SOLUTION = "tom 12 + 3 = 15 . ann 7 - 2 = 5 . tom 15 + 2 = 17 . #### 17 , 5"
STEPS = [("ann has 5", True), ("bob has 5 + 2 = 8", False)]
SIZES, SCHEMES = (390, 1280), ("light", "dark")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project folder with a made-up study, its claims, stand-ins for its reports, and the site made from them."""
    root = make_study(tmp_path_factory.mktemp("project"), seeds=(0, 1, 2))
    for name in ("dvc.yaml", "CLAIMS.md"):
        shutil.copy(ROOT / name, root)
    write_study(root)
    for name in ("notebooks", "figures", "excursions/findings"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in results.run_folders(root, "nano", "main"):
        _write_samples(folder)
    tables = results.load_tables(root, "nano")
    for name in claims.FIGURES:
        claims.write_claims(root, "nano", name, claims.evaluate_claims(tables, name))
    for name in pages.PAGES[:-2]:
        body = [Markup(f"<h1>{name}"), Markup("</h1>"), Markup("<p>cells</p>")]
        about = {
            "scale": "nano",
            "body": body,
            "contents": [],
            "lead": [],
            "code_style": "",
            "found": pages.claims_of(root, "nano", name),
            "by_result": {},
        }
        pages.write_page("report.html.j2", root / "reports" / "nano" / f"{name}.html", **about)
    site.write_site(root, "nano")
    return root


def _write_samples(folder: Path) -> None:
    """Two questions of two benchmarks, three completions each, before and after training."""
    steps = [0] if folder.parts[-2] == "base" else [0, 20]
    prompt = f"question : {QUESTION} answer :"
    texts = (STRAY, f"from {folder.parts[-3]} by {folder.parts[-2]}", SOLUTION)
    rows = [
        {
            "benchmark": benchmark,
            "question_id": f"{benchmark}-{number}",
            "step": step,
            "prompt": prompt,
            "gold": "17 , 5",
            "completion": text if text == SOLUTION else f"{text} {number}",
            "correct": step > 0 and place > 0,
            "valid": step > 0 and place > 1,
            "stop_reason": "eos",
        }
        for step in steps
        for benchmark in ("easy", "hard")
        for number in range(2)
        for place, text in enumerate(texts)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "samples.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))


def test_the_series_are_the_estimates_of_the_tables(project):
    tables = results.load_tables(project, "nano")
    series = explorer.all_series(project, tables)
    found = {tuple(one[:-1]): one[-1] for one in series}
    assert len(found) == len(series)
    last = tables.outcomes.query("checkpoint == 'p88' and recipe == 'rl' and step == 20 and benchmark == 'easy'")
    share = 100 * last["correct"] / last["n"]
    whole = found["tokens", explorer.SOLVED, "easy", 1, "main", "", "rl", "all"]
    assert [point[0] for point in whole] == ["p20", "p88"]
    assert whole[1][1] == pytest.approx(share.mean(), rel=1e-4) and whole[1][2] < whole[1][1] < whole[1][3]
    by_seed = found["tokens", explorer.SOLVED, "easy", 1, "main", "", "rl", 1]
    assert by_seed[1] == ["p88", pytest.approx(share[last["seed"] == 1].mean(), rel=1e-4)]
    assert [x for x, _ in found["steps", explorer.SOLVED, "easy", 1, "main", "p88", "rl", 0]] == [0, 10, 20]
    reward = found["steps", "reward", "", 0, "main", "p88", "rl", "all"]
    log = results.load_training(project, "nano").query("checkpoint == 'p88' and recipe == 'rl' and step == 20")
    assert reward[-1] == [20, pytest.approx(log["reward"].mean(), rel=1e-4)]


def test_the_log_of_a_run_that_left_the_study_leaves_the_explorer(project):
    tables = results.load_tables(project, "nano")
    fewer = [table[~((table["recipe"] == "rl") & (table["seed"] == 2))] for table in (tables.outcomes, tables.general)]
    left = results.Tables("nano", *fewer, tables.parameters)
    for shown, expected in ((tables, {0, 1, 2, "all"}), (left, {0, 1, "all"})):
        series = explorer.all_series(project, shown)
        assert {one[7] for one in series if one[1] == "reward" and one[6] == "rl"} == expected


def test_a_suite_with_fewer_samples_hides_no_curve_of_another(project):
    tables = results.load_tables(project, "nano")
    one = tables.outcomes["recipe"] == "sft"
    outcomes = tables.outcomes.assign(
        n=tables.outcomes["n"].where(~one, 8), correct=tables.outcomes["correct"].where(~one, 4), valid=0
    )
    series = explorer.all_series(project, results.Tables("nano", outcomes, tables.general, tables.parameters))
    by_seed = {(one[6], one[3]) for one in series if one[:2] == ["tokens", explorer.SOLVED] and one[7] == 0}
    assert {("rl", 32), ("rl", 1), ("sft", 8)} <= by_seed and ("sft", 32) not in by_seed


def test_samples_show_the_question_without_examples_and_all_of_the_text(tmp_path):
    how = params.load(ROOT / "params.yaml").scale("nano").questions
    example = how.prompt.replace("{question}", "who ?") + " ann 5 . #### 5 , 1" + how.separator
    row = {"benchmark": "easy", "question_id": "e", "step": 0, "gold": "17 , 5", "correct": True, "valid": True}
    row |= {"stop_reason": "eos", "completion": SOLUTION + " . that is it"}
    folder = results.run_folder(tmp_path, "nano", "main", "p88", "base", 0)
    folder.mkdir(parents=True)
    for before in ("", example):
        line = json.dumps(row | {"prompt": before + how.prompt.replace("{question}", QUESTION)})
        (folder / "samples.jsonl.gz").write_bytes(gzip.compress(line.encode()))
        cells = pd.DataFrame([("main", "p88", "base", 0)], columns=explorer.RUN)
        kept = explorer.kept_samples(tmp_path, "nano", cells, how, problems.checked_steps)
        assert kept["questions"] == [["e", "easy", QUESTION, "17 , 5"]]
        assert kept["completions"][0][1][-1] == ("#### 17 , 5 . that is it", True)


def test_samples_are_kept_once_and_their_steps_checked(project):
    tables = results.load_tables(project, "nano")
    cells = tables.outcomes[explorer.RUN].drop_duplicates()
    asked = []
    how = params.load(ROOT / "params.yaml").scale("nano").questions
    kept = explorer.kept_samples(project, "nano", cells, how, lambda *given: asked.append(given) or STEPS)
    assert kept["questions"][0] == ["easy-0", "easy", QUESTION, "17 , 5"]
    assert all(completion[1] == STEPS for completion in kept["completions"])
    assert {text for text, _ in asked} == {QUESTION}
    assert len(asked) == len(kept["completions"]) < sum(len(cell[5]) for cell in kept["cells"])
    (cell,) = [cell for cell in kept["cells"] if cell[:5] == ["main", "p88", "rl", 0, 20]]
    assert len(cell[5]) == 12


def test_the_same_files_give_the_same_bytes(project):
    folder = project / "reports" / "nano"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    site.write_site(project, "nano")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert str(project).encode() not in b"".join(first.values())


def test_the_readme_gets_the_lines_between_its_marks(tmp_path):
    file = tmp_path / "README.md"
    site.write_into_readme(file, ["one"])
    assert not file.exists()
    text = "# a\n<!-- what came out, written by `excursions site` -->\n\n{}\n\n<!-- to here -->\nb\n"
    for lines in (["one", r"two \1"], ["other"]):
        file.write_text(text.format("1. old\n2. old\n3. old"))
        site.write_into_readme(file, lines)
        assert file.read_text() == text.format("\n".join(f"{i}. {line}" for i, line in enumerate(lines, 1)))
    file.write_text("no marks")
    site.write_into_readme(file, ["one"])
    assert file.read_text() == "no marks"


def test_explore_shows_the_parameters_without_widgets(project):
    page = notebook.run("explore", "nano", project, {"recipe": "sft", "other": "base"}).read_text(encoding="utf-8")
    assert "sft from p88, seed 0: problems solved" in page and "sft against base from p88, easy" in page
    assert "from p88 by sft" in page and STRAY not in page and "HBox" not in page


class _Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets, self.ids, self.alts = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.targets += [found[name] for name in ("href", "src") if found.get(name)]
        self.ids.add(found.get("id"))
        if tag == "img":
            self.alts.append(found.get("alt"))


def _check_links(folder: Path) -> None:
    parsed = {path: _Links(path.read_text(encoding="utf-8")) for path in folder.glob("*.html")}
    for path, page in parsed.items():
        assert all(page.alts), f"{path.name}: an image without an alternative text"
        for target in page.targets:
            if target.startswith("data:"):
                continue
            name, _, anchor = target.partition("#")
            there = (path.parent / unquote(name)).resolve() if name else path
            assert not re.match(r"[a-z]+:|//", target), f"{path.name} leads to another server: {target}"
            assert there.is_file(), f"{path.name} links to {target}, which is not there"
            if anchor and "=" not in anchor and there in parsed:
                assert {anchor, unquote(anchor)} & parsed[there].ids, f"{path.name} links to {target}: no such place"


def test_every_link_resolves(project):
    _check_links(project / "reports" / "nano")


def test_every_link_of_the_committed_site_resolves():
    folder = ROOT / "reports" / "nano"
    if not (folder / "index.html").is_file():
        pytest.skip("reports/nano has no site yet: `dvc repro` makes it")
    _check_links(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """One headless Chromium for all tests; what it asks of the network is in its log."""
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no chromium and chromedriver here: `apt-get install chromium chromium-driver`")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    home = tmp_path_factory.mktemp("browser")
    for flag in (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        f"disable-component-update disable-sync disable-dev-shm-usage user-data-dir={home}"
    ).split():
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


def _open(browser, page: Path, width: int = 1280, scheme: str = "light", view: str = "") -> None:
    _show(browser, width, scheme)
    browser.get("about:blank")
    browser.get(page.as_uri() + view)


def _show(browser, width: int, scheme: str) -> None:
    """Shows what is open in another width and colour scheme."""
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)


OWN = ("file:", "data:", "about:", "chrome:", "chrome-untrusted:")  # the last two: of the browser's own empty tab


def _check_quiet(browser) -> None:
    """No error on the console, and no request beyond the files."""
    assert [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [entry["params"]["request"]["url"] for entry in sent if entry["method"] == "Network.requestWillBeSent"]
    assert asked and [url for url in asked if not url.startswith(OWN)] == []


def test_pages_are_quiet_and_fit_in_both_widths_and_schemes(project, browser):
    for page in ("index", "early_rl", "explorer", "samples"):
        for width in SIZES:
            _open(browser, project / "reports" / "nano" / f"{page}.html", width)
            for scheme in SCHEMES:
                _show(browser, width, scheme)
                wide, back = browser.execute_script(
                    "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
                )
                assert wide <= width, f"{page} scrolls sideways at {width}: it is {wide} wide"
                dark = sum(int(part) for part in re.findall(r"\d+", back)[:3]) < 3 * 128
                assert dark == (scheme == "dark"), f"{page} has the background {back} in the {scheme} scheme"
    _check_quiet(browser)


def test_the_committed_pages_fit_as_well(browser):
    pages = sorted((ROOT / "reports" / "nano").glob("*.html"))
    if not pages:
        pytest.skip("reports/nano has no site yet: `dvc repro` makes it")
    for page in pages:
        _open(browser, page, min(SIZES))  # loading is what takes long
        for width in SIZES:
            _show(browser, width, "light")
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= width, f"{page.name} scrolls sideways at {width}: it is {wide} wide"
    _check_quiet(browser)


def test_on_a_narrow_screen_the_forest_plot_is_rows_of_the_page(project, browser):
    rows = [json.loads(path.read_text()) for path in sorted((project / "claims" / "nano").glob("*.json"))]
    claims = {claim["id"]: claim for of_figure in rows for claim in of_figure}
    told = """return [...document.querySelectorAll(".forest li")].map(
        row => [row.innerText, row.querySelector("svg").innerHTML])"""
    shown = "return [...document.querySelectorAll('.forest, .not-narrow')].map(one => one.offsetHeight > 0)"
    _open(browser, project / "reports" / "nano" / "index.html", min(SIZES))
    assert browser.execute_script(shown) == [True, False]
    found = {text.split()[0]: (text, drawn) for text, drawn in browser.execute_script(told)}
    assert found.keys() == claims.keys()
    for name, (text, drawn) in found.items():
        assert claims[name]["verdict"] in text
        ends = f"M{claims[name]['ci_low']} 3.5H{claims[name]['ci_high']}"
        assert (ends in drawn) == (claims[name]["effect"] is not None)
    assert any(claim["effect"] is not None for claim in claims.values())
    _open(browser, project / "reports" / "nano" / "index.html", max(SIZES))
    assert browser.execute_script(shown) == [False, True]


def _paths(browser) -> list[str]:
    return browser.execute_script("return [...document.querySelectorAll('#chart path')].map(p => p.outerHTML)")


def test_the_chart_follows_the_choices(project, browser):
    page = project / "reports" / "nano" / "explorer.html"
    _open(browser, page)
    before, rows = _paths(browser), browser.execute_script("return document.querySelectorAll('#rows tbody tr').length")
    assert rows == 14 and any("path" in path for path in before)
    browser.find_element("css selector", "[name=recipe][value=rl]").click()
    assert _paths(browser) != before
    assert browser.execute_script("return document.querySelectorAll('#rows tbody tr').length") == 12
    assert "RL" not in browser.execute_script(
        "return [...document.querySelectorAll('#rows tbody td:first-child')].map(d => d.textContent)"
    )
    for name, value in {"axis": "steps", "seed": "each", "measure": "reward"}.items():
        changed = "const list = document.querySelector(`[name=${arguments[0]}]`); list.value = arguments[1];"
        browser.execute_script(changed + "list.dispatchEvent(new Event('change', {bubbles: true}));", name, value)
    assert "reward" in browser.find_element("id", "caption").text and "measure=reward" in browser.current_url
    view = browser.current_url.partition("#")[2]
    seen = browser.find_element("id", "rows").text
    _open(browser, page, view="#" + view)  # a view can be sent to somebody
    assert browser.find_element("id", "rows").text == seen
    _check_quiet(browser)


def test_a_value_is_told_on_hover(project, browser):
    from selenium.webdriver import ActionChains

    _open(browser, project / "reports" / "nano" / "explorer.html")
    mark = browser.find_elements("css selector", "#chart .mark-symbol path")[0]
    ActionChains(browser).move_to_element(mark).perform()
    assert re.search(r"p\d\d, mean of all seeds: [\d.]+ \[", browser.find_element("id", "value").text)


def test_a_claim_leads_to_its_rows_and_back(project, browser):
    folder = project / "reports" / "nano"
    claim = pages.claims_of(project, "nano", "early_rl")[0]
    _open(browser, folder / "index.html", view=f"#{claim.id}")
    listed = browser.find_element("id", claim.id)
    assert listed.is_displayed()
    listed.find_element("link text", "rows").click()
    assert claim.claim in browser.find_element("id", "behind").text
    recipes = browser.execute_script("return [...document.querySelectorAll('[name=recipe]:checked')].map(b => b.value)")
    assert recipes == ["base", "rl"] and browser.find_element("css selector", "[name=k]").get_attribute("value") == "1"
    browser.find_element("css selector", "#behind a").click()
    assert browser.current_url.endswith(f"early_rl.html#{claim.id}")
    assert browser.find_element("id", claim.id).is_displayed()


def test_a_claim_along_training_or_in_another_suite_leads_to_its_own_rows(project, browser):
    chosen = "return ['axis', 'measure', 'suite'].map(name => document.getElementById('choices').elements[name].value)"
    page = project / "reports" / "nano" / "explorer.html"
    _open(browser, page, view="#claim=rl-games-reward")
    assert browser.execute_script(chosen) == ["steps", explorer.NOT_DERIVED, "main"]
    _open(browser, page, view="#claim=more-rollouts-by-samples")
    assert "rollouts-64-hard is chosen, see rollouts-5-hard" in browser.find_element("id", "behind").text


def test_samples_are_shown_as_text_for_every_cell(project, browser):
    _open(browser, project / "reports" / "nano" / "samples.html")
    assert STRAY in browser.find_element("id", "texts").text and browser.title.startswith("Samples")
    assert browser.execute_script("return document.querySelectorAll('#texts script').length") == 0
    browser.find_element("css selector", "[data-cell='p20 sft']").click()
    shown = browser.find_element("id", "texts").text
    assert "before training: 0/3 right" in shown and "after step 20: 2/3 right, 1 derived" in shown
    assert "from p20 by sft 0" in shown
    browser.find_element("id", "next").click()
    assert "from p20 by sft 1" in browser.find_element("id", "texts").text
    browser.execute_script(
        "const list = document.querySelector('[name=show]'); list.value = 'derived';"
        "list.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    assert browser.find_element("id", "texts").text.count("right and derived") == 1
    assert browser.execute_script("return document.querySelectorAll('#texts .holds').length") == 4
    _check_quiet(browser)
