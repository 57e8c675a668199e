// Which of many routes are shown, and in which order? A search, an order, and routes that are folded
// to one line; a link to one route alone (#route=NAME). Where there are few, nothing of it is seen.

import { by, h, mark, say } from "./dom.js";
import { health } from "./model.js";

const MANY = 9; // from so many routes on there is something to find
const FOLDED = 13; // from so many on they begin folded, but for those in trouble
const KEEP_MS = 3000; // who is about to click shall find the row where it was

export class Finder {
  constructor(changed) {
    this.folded = new Map(); // what a person has said; the others as their number says
    this.arrangedAt = 0;
    this.order = [];
    by("find-text").addEventListener("input", () => changed(true));
    by("find-order").addEventListener("change", () => changed(true));
    window.addEventListener("hashchange", () => changed(true));
    by("find-fold").addEventListener("click", () => {
      const fold = by("find-fold").dataset.does === "fold";
      for (const name of this.order) this.folded.set(name, fold);
      changed(true);
    });
    this.changed = changed;
  }

  // The button that folds one route.
  button(name) {
    return h("button", {
      type: "button", class: "fold", "aria-label": `Backends of ${name}`,
      onclick: () => { this.folded.set(name, !this.isFolded(name)); this.changed(true); },
    });
  }

  isFolded(name) {
    if (this.folded.has(name)) return this.folded.get(name);
    return this.order.length >= FOLDED && !this.only() && !this.troubles.get(name);
  }

  only() {
    const found = new URLSearchParams(location.hash.slice(1)).get("route");
    return found && this.order.includes(found) ? found : null;
  }

  // Shows `views` (name → view with `body`) as asked for; at once where a person has just asked.
  arrange(views, state, table, now) {
    const names = [...views.keys()];
    this.order = names;
    this.troubles = new Map(names.map((name) => [name, trouble(state, name)]));
    const only = this.only();
    state.only = only;
    const wanted = by("find-text").value.trim().toLowerCase();
    const shown = names.filter((name) => (only ? name === only : matches(state.table.routes[name], name, wanted)));
    by("find").hidden = names.length < MANY && !only;
    by("find-all").hidden = !only;
    by("find-none").hidden = shown.length > 0 || !names.length;
    say(by("find-count"), shown.length === names.length ? `${names.length} routes` : `${shown.length} of ${names.length}`);
    for (const name of names) {
      const { body, fold } = views.get(name);
      body.hidden = !shown.includes(name);
      mark(body, "data-folded", this.isFolded(name));
      mark(fold, "aria-expanded", String(!this.isFolded(name)));
      fold.hidden = names.length < MANY;
    }
    // Whose instances are of interest: all of few, else those of the routes that are open.
    const open = shown.filter((name) => !this.isFolded(name)).flatMap((name) => Object.keys(state.table.routes[name].split));
    state.open = only || names.length >= FOLDED ? new Set(open) : null;
    const any = shown.some((name) => !this.isFolded(name));
    mark(by("find-fold"), "data-does", any ? "fold" : "unfold");
    say(by("find-fold"), any ? "Fold all" : "Unfold all");
    if (table && (now - this.arrangedAt >= KEEP_MS || this.asked)) this.sort(views, state, table, now);
    this.asked = false;
  }

  sort(views, state, table, now) {
    this.arrangedAt = now;
    const by_ = by("find-order").value;
    const rank = { trouble: (name) => -this.troubles.get(name), busy: (name) => -(state.status.routes?.[name]?.requests_per_s || 0) }[by_];
    const names = [...views.keys()];
    if (rank) names.sort((one, other) => rank(one) - rank(other));
    const bodies = names.map((name) => views.get(name).body);
    const held = table.contains(document.activeElement) && document.activeElement.matches("input");
    if (held || bodies.every((body, index) => table.tBodies[index] === body)) return;
    table.append(...bodies);
  }
}

function matches(spec, name, wanted) {
  const match = typeof spec.match === "string" ? spec.match : JSON.stringify(spec.match);
  return !wanted || [name, match, ...Object.keys(spec.split)].some((text) => text.toLowerCase().includes(wanted));
}

// How bad it is: what is not served, then what failed, then who is not well. 0: all is well.
export function trouble({ status }, name) {
  const route = status.routes?.[name];
  if (!route) return 0;
  const effective = route.effective || {};
  const lost = route.effective ? 1 - Object.values(effective).reduce((sum, share) => sum + share, 0) : 0;
  const failed = route.requests_per_s ? (route.errors_per_s || 0) / route.requests_per_s : 0;
  const all = Object.keys(route.weights || effective).flatMap((backend) => Object.values(status.backends?.[backend]?.instances || {}));
  const ill = all.length ? all.filter((one) => health(one).tone !== "good").length / all.length : 0;
  return Math.round(1000 * (lost > 0.001 ? 10 + 10 * lost : 0) + 1000 * (failed > 0.01 ? 1 + failed : 0) + 100 * ill);
}
