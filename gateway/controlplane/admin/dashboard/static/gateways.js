// Which gateways share the table, by which revision do they decide, and who is lost? Nothing where
// there is but one.

import { by, h, mark, say } from "./dom.js";
import { number } from "./model.js";

export function gateways(state) {
  const root = by("gateways");
  const body = by("gateways-body");
  const rows = new Map();

  function row(name) {
    const pill = h("span", { class: "pill" });
    const cell = (label) => h("td", { class: "num", "data-label": label });
    const cells = [h("td", {}, pill), cell("Revision"), cell("Workers"), h("td", { "data-label": "Admin API" })];
    const element = h("tr", { "data-gateway": name }, h("th", { scope: "row" }, name), ...cells);
    body.append(element);
    return { element, pill, cells };
  }

  return {
    update() {
      const found = Object.entries(state.status.gateways || {});
      root.hidden = !found.length;
      const divided = state.status.limits?.divided_by;
      say(by("gateways-note"), divided > 1 ? `limits of keys and routes are divided by ${divided}` : "");
      for (const [name, one] of found) {
        if (!rows.has(name)) rows.set(name, row(name));
        const { pill, cells } = rows.get(name);
        const word = one.live ? (one.behind ? `${one.behind} behind` : "live") : "lost";
        say(pill, one.self ? `${word}, this one` : word);
        mark(pill, "data-tone", one.live ? (one.behind ? "warn" : "good") : "bad");
        say(cells[1], number(one.revision, 0));
        say(cells[2], number(one.workers, 0));
        say(cells[3], one.admin || "");
      }
      for (const [name, { element }] of rows) {
        if (Object.hasOwn(state.status.gateways || {}, name)) continue;
        element.remove();
        rows.delete(name);
      }
    },
  };
}
