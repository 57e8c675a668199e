// Five charts on one time axis: requests, errors and the three percentiles, a line per backend.

import { by, h, mark, say } from "./dom.js";
import { LineChart } from "./line_chart.js";
import { colours, number, same } from "./model.js";

const CHARTS = [
  ["requests", "Requests per second"],
  ["errors", "499, 5xx, refused / s"],
  ["p50", "p50, ms"],
  ["p95", "p95, ms"],
  ["p99", "p99, ms"],
];
const ALL = "";

export function charts(state) {
  const hidden = new Set();
  let scope = ALL;
  let known = null;
  const cursor = { at: null };
  const drawn = CHARTS.map(([key, title]) => new LineChart(key, title, cursor, () => draw()));
  by("charts-body").append(...drawn.map((chart) => chart.element));
  by("scope").addEventListener("change", (event) => {
    scope = event.target.value;
    known = null;
    update();
  });

  function backends() {
    const route = state.table.routes?.[scope];
    return route ? Object.keys(route.split) : Object.keys(state.table.backends || {});
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
    by("scope").replaceChildren(...names.map((name) => h("option", { value: name, selected: name === scope }, name || "all routes")));
  }

  function draw() {
    const tints = colours(state.table);
    const lines = backends().filter((name) => !hidden.has(name) && state.series.has(name))
      .map((name) => ({ name, tint: tints.get(name), points: state.series.get(name).points }));
    for (const chart of drawn) chart.draw(lines, state.marks);
  }

  function update() {
    const now = [Object.keys(state.table.routes || {}), Object.keys(state.table.backends || {}), scope];
    if (!same(now, known)) {
      if (scope !== ALL && !(scope in (state.table.routes || {}))) scope = ALL;
      known = now;
      legend();
    }
    draw();
  }

  return { update };
}
