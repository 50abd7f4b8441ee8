// A table of checkpoints and recipes for one question; the cell that is chosen shows its completions below.
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("choices");
const [SUITE, CHECKPOINT, RECIPE, SEED, STEP, KEPT] = [0, 1, 2, 3, 4, 5];
const [QUESTION, TEXT, RIGHT, DERIVED, WHY] = [0, 1, 2, 3, 4];
const FILTERS = { "": () => true, right: (one) => one[RIGHT], wrong: (one) => !one[RIGHT], derived: (one) => one[DERIVED], "not derived": (one) => one[RIGHT] && one[DERIVED] === false };
let chosen = null;  // [checkpoint, recipe]

function element(name, text, attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text !== undefined) made.textContent = text;  // text is never read as HTML
  return made;
}

function offer(name, values) {
  const list = form.elements[name], before = list.value;
  list.replaceChildren(...values.map(([value, text]) => element("option", text, { value })));
  if (values.some(([value]) => value === before)) list.value = before;
}

const asked = () => Number(form.elements.question.value);
const cells = () => data.cells.filter((cell) => cell[SUITE] === form.elements.suite.value);
const kept = (cell) => cell[KEPT].map((place) => data.completions[place]).filter((one) => one[QUESTION] === asked());

function counts(completions) {
  const right = completions.filter(FILTERS.right).length, known = completions.some((one) => one[DERIVED] !== null);
  return `${right}/${completions.length} right` + (known ? `, ${completions.filter(FILTERS.derived).length} derived` : "");
}

function stepsOf(checkpoint, recipe) {
  return cells().filter((cell) => cell[CHECKPOINT] === checkpoint && cell[RECIPE] === recipe && kept(cell).length);
}

function drawGrid() {
  const question = data.questions[asked()], head = element("tr"), body = element("tbody");
  document.getElementById("question").replaceChildren(element("p", question[2]), element("p", `right answer: ${question[3]}`, { className: "dim" }));
  const recipes = Object.keys(data.recipes).filter((name) => cells().some((cell) => cell[RECIPE] === name));
  const checkpoints = Object.keys(data.multiples[form.elements.suite.value]).filter((name) => cells().some((cell) => cell[CHECKPOINT] === name));
  head.append(element("td"), ...recipes.map((name) => element("th", data.recipes[name][0], { scope: "col" })));
  for (const checkpoint of checkpoints) {
    const row = element("tr");
    row.append(element("th", checkpoint, { scope: "row" }));
    for (const recipe of recipes) {
      const place = element("td"), last = stepsOf(checkpoint, recipe).at(-1);
      if (last) {
        const completions = kept(last), share = completions.filter(FILTERS.right).length / completions.length;
        const button = element("button", counts(completions), { type: "button", className: "count", onclick: () => { chosen = [checkpoint, recipe]; drawTexts(); document.getElementById("cell").focus(); } });
        button.style.setProperty("--share", `${Math.round(60 * share)}%`);
        button.dataset.cell = `${checkpoint} ${recipe}`;
        button.setAttribute("aria-label", `${data.recipes[recipe][0]} from ${checkpoint}: ${button.textContent}`);
        place.append(button);
      }
      row.append(place);
    }
    body.append(row);
  }
  const table = document.getElementById("grid"), thead = element("thead");
  thead.append(head);
  table.replaceChildren(thead, body);
  if (!chosen || !stepsOf(...chosen).length) {
    const there = cells().filter((cell) => kept(cell).length).at(-1);
    chosen = there ? [there[CHECKPOINT], there[RECIPE]] : null;
  }
  drawTexts();
}

function drawTexts() {
  const texts = document.getElementById("texts");
  texts.replaceChildren();
  if (!chosen) return;
  for (const button of document.querySelectorAll("#grid button")) button.setAttribute("aria-pressed", button.dataset.cell === chosen.join(" "));
  const steps = stepsOf(...chosen);
  document.getElementById("cell").textContent = `${data.recipes[chosen[1]][0]} from ${chosen[0]}, seed ${steps[0][SEED]}`;
  for (const cell of steps) {
    const column = element("div"), shown = kept(cell), list = element("ol");
    column.append(element("h3", `${cell[STEP] ? `after step ${cell[STEP]}` : chosen[1] === "base" ? "the base model" : "before training"}: ${counts(shown)}`), list);
    const picked = shown.filter(FILTERS[form.elements.show.value]);
    if (!picked.length) column.append(element("p", "none of them", { className: "dim" }));
    for (const one of picked) {
      const item = element("li"), grade = one[RIGHT] ? one[DERIVED] === false ? "right, not derived" : one[DERIVED] ? "right and derived" : "right" : "wrong";
      item.append(element("p", `${one[RIGHT] ? "✓" : "✗"} ${grade}${one[WHY] === "length" ? ", cut off at the longest length" : ""}`, { className: `verdict ${one[RIGHT] ? one[DERIVED] === false ? "inconclusive" : "supported" : "not-supported"}` }));
      if (Array.isArray(one[TEXT])) {
        const written = element("ul", undefined, { className: "steps" });
        for (const [step, holds] of one[TEXT]) {
          const line = element("li", undefined, { className: holds ? "holds" : "fails" });
          line.append(element("span", holds ? "✓" : "✗", { title: holds ? "holds" : "does not hold" }), " ", step);
          written.append(line);
        }
        item.append(written);
      } else item.append(element("pre", one[TEXT]));
      list.append(item);
    }
    texts.append(column);
  }
}

function offerQuestions() {
  const benchmark = form.elements.benchmark.value;
  const found = data.questions.map((question, place) => [String(place), question]).filter(([, question]) => question[1] === benchmark);
  offer("question", found.map(([place, question], number) => [place, `${number + 1}: ${question[0]}`]));
}

function move(by) {
  const list = form.elements.question;
  list.selectedIndex = (list.selectedIndex + by + list.length) % list.length;
  drawGrid();
}

const unique = (values) => [...new Set(values)].map((value) => [value, value]);
offer("benchmark", unique(data.questions.map((question) => question[1])));
offer("suite", unique(Object.keys(data.multiples).filter((suite) => data.cells.some((cell) => cell[SUITE] === suite))));
if (form.elements.suite.length < 2) form.elements.suite.parentElement.hidden = true;
form.elements.benchmark.addEventListener("change", offerQuestions);
form.addEventListener("change", drawGrid);
document.getElementById("previous").addEventListener("click", () => move(-1));
document.getElementById("next").addEventListener("click", () => move(1));
offerQuestions();
if (data.questions.length) {
  // The page opens on a question that about half of the models solve at least once: there is something to compare.
  const solved = Array(data.questions.length).fill(0), last = new Map();
  for (const cell of cells()) last.set(cell[CHECKPOINT] + " " + cell[RECIPE], cell);
  for (const cell of last.values()) {
    for (const place of new Set(cell[KEPT].map((one) => data.completions[one]).filter(FILTERS.right).map((one) => one[QUESTION]))) solved[place] += 1;
  }
  const far = (option) => Math.abs(solved[Number(option.value)] - last.size / 2);
  const options = [...form.elements.question.options];
  form.elements.question.value = options.reduce((best, option) => far(option) < far(best) ? option : best).value;
  drawGrid();
}
