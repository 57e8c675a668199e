// What is the whole gateway doing right now? Nine numbers.

import { by, h, mark, say } from "./dom.js";
import { number, totals } from "./model.js";

const FACTS = [
  ["requests", "requests / s"],
  ["4xx", "4xx / s"],
  ["499", "clients left / s"],
  ["5xx", "failed (5xx) / s"],
  ["refused", "refused / s"],
  ["p99", "slowest p99, ms"],
  ["inFlight", "in flight"],
  ["queued", "queued"],
  ["up", "instances up"],
];

export function summary(state) {
  const values = new Map();
  by("summary").append(...FACTS.map(([key, words]) => {
    const value = h("dd");
    values.set(key, value);
    return h("dl", { class: "fact" }, h("dt", {}, words), value);
  }));
  return {
    update() {
      const now = totals(state.status);
      for (const [key, value] of values) say(value, text(key, now));
      mark(values.get("4xx"), "data-tone", now["4xx"] > 0 ? "warn" : null);
      for (const kind of ["499", "5xx", "refused"]) mark(values.get(kind), "data-tone", now[kind] > 0 ? "bad" : null);
      mark(values.get("up"), "data-tone", now.up < now.instances ? "warn" : null);
    },
  };
}

function text(key, now) {
  if (key === "up") return `${now.up} of ${now.instances}`;
  return key === "inFlight" || key === "queued" ? number(now[key], 0) : number(now[key]);
}
