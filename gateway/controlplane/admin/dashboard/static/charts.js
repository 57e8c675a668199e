// Five charts on one time axis: requests, errors and the three percentiles, a line per backend; of
// very many backends one line for all of them, until a route is chosen. What was before the page
// was opened the gateway has kept.

import { api } from "./api.js";
import { by, h, mark } from "./dom.js";
import { LineChart } from "./line_chart.js";
import { colours, same, SPANS } from "./model.js";

const CHARTS = [
  ["requests", "Requests per second"],
  ["errors", "499, 5xx, refused / s"],
  ["p50", "p50, ms"],
  ["p95", "p95, ms"],
  ["p99", "p99, ms"],
];
const ALL = "";
const MANY = 13; // lines that no eye tells apart
const KEPT_MS = 10_000; // how often the gateway has another step
const WHOLE = "all routes";

export function charts(state) {
  const hidden = new Set();
  let scope = ALL;
  let known = null;
  let asked = { at: 0, names: null };
  const cursor = { at: null };
  const drawn = CHARTS.map(([key, title]) => new LineChart(key, title, cursor, () => draw()));
  by("charts-body").append(...drawn.map((chart) => chart.element));
  by("scope").addEventListener("change", (event) => {
    scope = event.target.value;
    known = null;
    update();
  });
  by("span").addEventListener("change", () => draw());

  const chosen = () => state.only ?? scope;

  // The backends that have a line of their own; none: one line for all.
  function backends() {
    const route = state.table.routes?.[chosen()];
    const names = route ? Object.keys(route.split) : Object.keys(state.table.backends || {});
    return route || names.length < MANY ? names : [];
  }

  function legend() {
    const tints = colours(state.table);
    by("legend").replaceChildren(...backends().map((name) => h("button", {
      type: "button", "aria-pressed": String(!hidden.has(name)), vars: { "--tint": `var(--tint-${tints.get(name)})` },
      onclick: (event) => {
        if (!hidden.delete(name)) hidden.add(name);
        mark(event.currentTarget, "aria-pressed", String(!hidden.has(name)));
        draw();
      },
    }, h("span", { class: "chip", "aria-hidden": true }), name)));
    const names = [ALL, ...Object.keys(state.table.routes || {})];
    by("scope").replaceChildren(...names.map((name) => h("option", { value: name, selected: name === chosen() }, name || WHOLE)));
  }

  function draw() {
    if (!state.table) return; // charts get their size before there is anything to be drawn
    const tints = colours(state.table);
    const span = SPANS[by("span").value];
    const now = Date.now();
    const own = backends().filter((name) => !hidden.has(name) && state.series.has(name))
      .map((name) => ({ name, tint: tints.get(name), points: state.series.get(name).points(now, span) }));
    const all = [{ name: WHOLE, tint: 0, points: state.whole.points(now, span) }];
    for (const chart of drawn) chart.draw(backends().length ? own : all, state.marks, span);
  }

  // Asks what the gateway kept, when it can have more or other backends are shown.
  async function recall() {
    const names = backends().slice(0, 50);
    if (same(names, asked.names) && Date.now() - asked.at < KEPT_MS) return;
    asked = { at: Date.now(), names };
    const found = await api.series(names);
    state.whole.keep(found.until, found.step_s, found.gateway);
    for (const [name, rates] of Object.entries(found.backends)) {
      state.series.get(name)?.keep(found.until, found.step_s, rates);
    }
    draw();
  }

  function update() {
    const now = [Object.keys(state.table.routes || {}), Object.keys(state.table.backends || {}), chosen()];
    if (!same(now, known)) {
      if (scope !== ALL && !Object.hasOwn(state.table.routes || {}, scope)) scope = ALL;
      known = now;
      legend();
    }
    draw();
    recall().catch(() => {}); // the next look says what is wrong, where anything is
  }

  return { update };
}
