// The state is what the form says; it stands in the address after #, so that a view can be linked.
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("choices");
const chart = document.getElementById("chart");
const [AXIS, MEASURE, BENCHMARK, K, SUITE, CHECKPOINT, RECIPE, SEED, POINTS] = [0, 1, 2, 3, 4, 5, 6, 7, 8];
const CHOICES = { axis: AXIS, measure: MEASURE, benchmark: BENCHMARK, k: K, suite: SUITE, checkpoint: CHECKPOINT, seed: SEED };
const dark = matchMedia("(prefers-color-scheme: dark)");
let view = null;

function element(name, text, attributes = {}) {
  const made = Object.assign(document.createElement(name), attributes);
  if (text !== undefined) made.textContent = text;  // text is never read as HTML
  return made;
}

// Offers in each list what there is for the choices before it, and keeps what was chosen where it is still offered.
function fill(wanted = {}) {
  let left = data.series;
  for (const [name, at] of Object.entries(CHOICES)) {
    const list = form.elements[name];
    const offered = [...new Set(left.map((series) => String(series[at])))];
    if (name === "seed") offered.sort((a, b) => (b === "all") - (a === "all") || a - b).push("each");
    const before = wanted[name] ?? list.value;
    const chosen = offered.includes(before) ? before : offered[name === "checkpoint" ? offered.length - 1 : 0];
    const shown = { all: "mean of all", tokens: "pretraining", steps: "training", "": "all", 0: name === "k" ? "–" : "0" };
    list.replaceChildren(...offered.map((value) => element("option", shown[value] ?? value, { value })));
    list.value = chosen;
    list.disabled = offered.length < 2;
    left = left.filter((series) => name === "seed" ? chosen === "each" ? series[at] !== "all" : String(series[at]) === chosen
      : String(series[at]) === chosen);
  }
  const there = new Set(left.map((series) => series[RECIPE]));
  for (const box of form.querySelectorAll("[name=recipe]")) {
    box.disabled = !there.has(box.value);
    if (wanted.recipe) box.checked = wanted.recipe.split(",").includes(box.value);
  }
  return left;
}

const chosenRecipes = () => [...form.querySelectorAll("[name=recipe]:checked")].map((box) => box.value);

function spec(points, axis, multiples) {
  const ink = dark.matches ? "#c9d1dc" : "#333333", line = dark.matches ? "#38404d" : "#e1e5ea";
  const recipes = Object.keys(data.recipes);
  const labels = { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 12, titleFontSize: 12 };
  const across = { field: "x", scale: "x" }, up = { field: "y", scale: "y" };
  const color = { field: "recipe", scale: "color" };
  const y = points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]);
  const marks = [
    { type: "area", encode: { enter: { x: across, y: { field: "low", scale: "y" }, y2: { field: "high", scale: "y" }, fill: color, fillOpacity: { value: 0.15 } } } },
    { type: "rule", encode: { enter: { x: across, y: { field: "low", scale: "y" }, y2: { field: "high", scale: "y" }, stroke: color, strokeOpacity: { value: 0.35 } } } },
    { type: "line", encode: { enter: { x: across, y: up, stroke: color, strokeWidth: { value: 2 } } } },
  ];
  return {
    $schema: "https://vega.github.io/schema/vega/v6.json",
    width: Math.max(chart.clientWidth - 4, 200), height: innerWidth < 600 ? 280 : 380, padding: 6, autosize: { type: "fit", contains: "padding" },
    data: [
      { name: "points", values: points },
      { name: "bands", source: "points", transform: [{ type: "filter", expr: "isValid(datum.low)" }] },
    ],
    scales: [
      { name: "x", type: axis === "tokens" ? "log" : "linear", domain: { data: "points", field: "x" }, range: "width", nice: false, padding: 12, zero: false },
      { name: "y", type: "linear", domain: [Math.min(0, ...y), Math.max(...y)], nice: true, range: "height" },
      { name: "color", type: "ordinal", domain: recipes, range: recipes.map((name) => name === "base" ? ink : data.recipes[name][1]) },
    ],
    axes: [
      { scale: "x", orient: "bottom", grid: true, title: axis === "tokens" ? "pretraining tokens (× Chinchilla-optimal)" : "step of training",
        ...(axis === "tokens" ? { values: multiples, format: ".2~f", labelOverlap: true } : { tickCount: 6 }), ...labels },
      { scale: "y", orient: "left", grid: true, title: form.elements.measure.value, tickCount: 6, ...labels },
    ],
    marks: [
      ...marks.map((mark, number) => ({ type: "group", from: { facet: { name: "one" + number, data: mark.type === "line" ? "points" : "bands", groupby: ["recipe", "seed"] } },
        marks: [{ ...mark, from: { data: "one" + number }, sort: { field: "x" } }] })),
      { type: "symbol", from: { data: "points" }, encode: {
        enter: { x: across, y: up, fill: color, stroke: { value: dark.matches ? "#14181f" : "#fff" }, tooltip: { signal: "datum" } },
        update: { size: { value: axis === "tokens" ? 80 : 36 } }, hover: { size: { value: 180 } } } },
    ],
  };
}

function number(value) { return value === undefined ? "" : Number(value.toPrecision(4)).toString(); }

function told(point) {
  const interval = point.low === undefined ? "" : ` [${number(point.low)}, ${number(point.high)}]`;
  const where = point.step === undefined ? point.checkpoint : `${point.checkpoint}, step ${number(point.step)}`;
  return `${data.recipes[point.recipe][0]}, ${where}, ${point.seed === "all" ? "mean of all seeds" : "seed " + point.seed}: ${number(point.y)}${interval}`;
}

// Vega's own way to show a value is a title; here it is a box beside the pointer.
function hover(handler, event, item, point) {
  const box = document.getElementById("value");
  box.hidden = !point;
  if (!point) return;
  box.textContent = told(point);
  box.style.left = `${Math.max(8, Math.min(event.clientX + 14, innerWidth - box.offsetWidth - 8))}px`;
  box.style.top = `${event.clientY + 14}px`;
}

function draw(wanted) {
  const left = fill(wanted), recipes = chosenRecipes(), axis = form.elements.axis.value;
  const points = left.filter((series) => recipes.includes(series[RECIPE])).flatMap((series) => series[POINTS].map(([at, y, low, high]) => ({
    recipe: series[RECIPE], seed: series[SEED], checkpoint: axis === "tokens" ? at : series[CHECKPOINT], y, low, high,
    ...(axis === "tokens" ? { x: data.multiples[series[SUITE]][at] } : { x: at, step: at }),
  })));
  const values = { ...Object.fromEntries(Object.keys(CHOICES).map((name) => [name, form.elements[name].value])), recipe: recipes.join(",") };
  if (!wanted || !wanted.claim) history.replaceState(null, "", "#" + new URLSearchParams(values));
  const about = [values.measure, values.benchmark, values.k > 0 && `pass@${values.k}`, values.checkpoint].filter(Boolean).join(", ");
  document.getElementById("caption").textContent = points.length
    ? `${about}: ${points.length} points. ${points.some((point) => point.low !== undefined) ? "Bands are 95% intervals." : "Without intervals."}` : "Choose at least one recipe.";
  chart.setAttribute("aria-label", `Chart of ${about} along ${axis === "tokens" ? "pretraining" : "training"}; its rows stand in the table below.`);
  if (view) view.finalize();
  chart.replaceChildren();
  if (points.length) {
    const multiples = [...new Set(points.map((point) => point.x))];
    view = new vega.View(vega.parse(spec(points, axis, multiples)), { renderer: "svg", container: chart, hover: true }).tooltip(hover);
    view.runAsync();
  }
  tabulate(points, values);
}

function tabulate(points, values) {
  const head = element("thead"), body = element("tbody"), table = document.getElementById("rows");
  const names = ["recipe", "checkpoint", "value", "95% interval", ...(values.axis === "steps" ? ["step"] : ["× optimal"]), "seed", "run"];
  head.append(element("tr"));
  head.firstChild.append(...names.map((name) => element("th", name, { scope: "col" })));
  for (const point of points) {
    const row = element("tr"), runs = element("td");
    const cells = [data.recipes[point.recipe][0], point.checkpoint, number(point.y),
      point.low === undefined ? "" : `${number(point.low)} to ${number(point.high)}`, number(point.x), point.seed === "all" ? "all" : point.seed];
    for (const [suite, checkpoint, recipe, seed] of data.runs) {
      if (suite === values.suite && checkpoint === point.checkpoint && recipe === point.recipe && (point.seed === "all" || point.seed === seed)) {
        runs.append(element("a", `seed ${seed}`, { href: `../../results/${data.scale}/${suite}/${checkpoint}/${recipe}/seed-${seed}/run.json` }), " ");
      }
    }
    row.append(...cells.map((text) => element("td", text)), runs);
    body.append(row);
  }
  table.replaceChildren(head, body);
}

// What the address asks for: a claim's rows, or a view.
function start() {
  const asked = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  const claim = data.claims[asked.claim], behind = document.getElementById("behind");
  behind.hidden = !claim;
  if (!claim) return draw({ recipe: Object.keys(data.recipes).join(","), ...asked });
  behind.replaceChildren("Rows behind the claim ", element("a", claim.claim, { href: `${claim.page}.html#${asked.claim}` }));
  const [suite, ...others] = claim.suites;
  if (others.length) behind.append(` It compares suites: ${suite} is chosen, see ${others.join(", ")} as well`);
  const benchmark = claim.measure.startsWith("general") ? "average" : data.roles[claim.role] ?? "";
  draw({ axis: claim.axis, measure: claim.measure, benchmark, k: String(claim.k), suite, checkpoint: claim.checkpoint, recipe: claim.recipes.join(","), seed: claim.seed, claim: asked.claim });
}

for (const [name, [label, color]] of Object.entries(data.recipes)) {
  if (!data.series.some((series) => series[RECIPE] === name)) continue;
  const line = element("label");
  const swatch = element("span", "", { className: "swatch" });
  swatch.style.background = name === "base" ? "var(--text)" : color;
  line.append(element("input", undefined, { type: "checkbox", name: "recipe", value: name, checked: true }), swatch, label);
  document.getElementById("recipes").append(line);
}
form.addEventListener("change", () => { document.getElementById("behind").hidden = true; draw(); });
addEventListener("hashchange", start);
addEventListener("resize", () => draw({}));
dark.addEventListener("change", () => draw({}));
start();
