// Which routes are there, how do they divide, and what is each backend doing?
//
// Rows are made when the table changes and only written into afterwards. A split that is being
// edited is never rebuilt under the hand that edits it: its editor rebases itself.

import { by, h, keepRoles, mark, say, vars } from "./dom.js";
import { Finder } from "./finder.js";
import { answers, colours, health, matched, number, percent, same, shares } from "./model.js";
import { MirrorPanel } from "./mirror.js";
import { RolloutPanel } from "./rollout.js";
import { SplitEditor } from "./split_editor.js";

const COLUMNS = [
  ["Backend", ""], ["Weight", ""], ["Share", "num"], ["After health", "num"], ["Req/s", "num"],
  ["Answers/s", "num"], ["p50", "num"], ["p95", "num"], ["p99 ms", "num"], ["Up", "num"],
];

export function routes(state, refresh) {
  const root = by("routes-body");
  let shape = null;
  let shown = new Map();
  const finder = new Finder((isAsked) => {
    finder.asked = isAsked;
    if (state.status) arrange();
  });
  const arrange = () => finder.arrange(shown, state, root.querySelector("table"), Date.now());

  function build() {
    const tints = colours(state.table);
    const before = shown;
    shown = new Map();
    const bodies = Object.entries(state.table.routes || {}).map(([name, spec]) => {
      const kept = before.get(name);
      const view = kept && kept.editor.busy && same(kept.backends, Object.keys(spec.split))
        ? kept
        : new RouteView(name, spec, tints, refresh, finder.button(name));
      shown.set(name, view);
      return view.body;
    });
    const head = h("thead", {}, h("tr", {}, ...COLUMNS.map(([words, kind]) => h("th", { scope: "col", class: kind }, words))));
    root.replaceChildren(bodies.length
      ? keepRoles(h("table", { class: "routes" },
        h("caption", { class: "unseen" }, "Routes with the weight and the load of each backend"), head, ...bodies))
      : h("p", { class: "none" }, "There is no route yet. Apply a file with headgate apply."));
  }

  return {
    update() {
      const next = JSON.stringify([state.table.routes, Object.keys(state.table.backends || {})]);
      if (next !== shape) {
        shape = next;
        build();
      }
      for (const view of shown.values()) view.update(state);
      arrange();
    },
  };
}

class RouteView {
  constructor(name, spec, tints, refresh, fold) {
    this.fold = fold;
    this.name = name;
    this.backends = Object.keys(spec.split);
    this.rate = h("span", { class: "rate" });
    this.dead = h("span", { class: "pill", "data-tone": "bad", hidden: true });
    this.bar = h("div", { class: "split", "aria-hidden": true });
    this.live = h("div", { class: "split live", "aria-hidden": true });
    this.segments = this.backends.map((backend) => this.segment(backend, tints));
    const to = spec.rewrite ? ` → ${spec.rewrite}` : "";
    const title = h("tr", { class: "route" }, h("th", { colspan: COLUMNS.length, scope: "rowgroup" },
      h("div", { class: "title" },
        fold, h("a", { class: "name", href: `#route=${encodeURIComponent(name)}`, title: "This route alone: a link to share" }, name), h("code", {}, matched(spec.match) + to), this.dead, this.rate),
      h("div", { class: "gate" }, this.bar, this.live)));
    this.editor = new SplitEditor(name, spec.split, tints, {
      columns: COLUMNS.length, refresh, drawn: (weights) => this.draw(weights),
    });
    this.rows = new Map(this.backends.map((backend) => [backend, new BackendRow(backend, this.editor, tints)]));
    this.rollout = new RolloutPanel(name, COLUMNS.length, refresh);
    this.mirror = new MirrorPanel(name, spec, COLUMNS.length);
    this.body = h("tbody", { "data-route": name }, title, this.rollout.element, this.mirror.element,
      ...[...this.rows.values()].map((row) => row.element), this.editor.panel);
    this.editor.draw();
  }

  segment(backend, tints) {
    const tint = `var(--tint-${tints.get(backend) ?? 0})`;
    const pair = [h("span"), h("span")];
    pair.forEach((part) => vars(part, { "--tint": tint }));
    this.bar.append(pair[0]);
    this.live.append(pair[1]);
    return [backend, ...pair];
  }

  draw(weights) {
    const wanted = shares(weights);
    for (const [backend, part] of this.segments) vars(part, { "flex-grow": wanted[backend] || 0 });
    for (const [backend, row] of this.rows) row.share(wanted[backend] || 0);
  }

  update({ status }) {
    const route = status.routes?.[this.name] || {};
    const effective = route.effective || {};
    this.rollout.update(route.rollout);
    this.mirror.update();
    this.editor.rebase(route.weights, status.revision);
    this.draw(this.editor.draft);
    for (const [backend, , part] of this.segments) vars(part, { "flex-grow": effective[backend] || 0 });
    const served = Object.values(effective).reduce((sum, share) => sum + share, 0);
    mark(this.live, "data-refusing", served < 0.999);
    this.dead.hidden = served >= 0.999 || !route.effective;
    say(this.dead, served ? `${percent(1 - served)} not served` : "not served");
    say(this.rate, `${number(route.requests_per_s)} req/s`);
    for (const [name, row] of this.rows) {
      const backend = status.backends?.[name];
      row.update(backend, effective[name], this.editor, route.backends?.[name] ?? backend);
    }
  }
}

class BackendRow {
  constructor(name, editor, tints) {
    const cell = (label) => h("td", { class: "num", "data-label": label });
    this.name = name;
    this.cells = {
      share: cell("Share"), effective: cell("After health"), requests: cell("Req/s"), answers: cell("Answers/s"),
      p50: cell("p50 ms"), p95: cell("p95 ms"), p99: cell("p99 ms"), up: cell("Up"),
    };
    const chip = h("span", { class: "chip", "aria-hidden": true, vars: { "--tint": `var(--tint-${tints.get(name) ?? 0})` } });
    this.element = h("tr", { class: "backend", "data-backend": name },
      h("th", { scope: "row" }, chip, name), h("td", { class: "weight" }, editor.control(name)),
      ...Object.values(this.cells));
  }

  // Each kind of answer that there was, apart.
  answered(kinds) {
    const list = this.cells.answers;
    while (list.childElementCount > kinds.length) list.lastChild.remove();
    while (list.childElementCount < kinds.length) list.append(h("span", { class: "kind" }, h("small"), " ", h("span")));
    kinds.forEach(({ kind, rate, tone }, index) => {
      const part = list.children[index];
      mark(part, "data-kind", kind);
      mark(part, "data-tone", tone);
      say(part.firstChild, kind);
      say(part.lastChild, number(rate));
    });
  }

  share(part) {
    say(this.cells.share, percent(part));
  }

  // `rates`: of this route's requests, where the backend has those of others too.
  update(backend = {}, effective = 0, editor, rates = backend) {
    const { cells } = this;
    say(cells.effective, percent(effective));
    const configured = shares(editor.base)[this.name] || 0;
    mark(cells.effective, "data-tone", Math.abs(effective - configured) > 0.0005 ? "warn" : "quiet");
    say(cells.requests, number(rates.requests_per_s));
    this.answered(answers(rates));
    for (const point of ["p50", "p95", "p99"]) say(cells[point], number(rates.latency_ms?.[point]));
    const all = Object.values(backend.instances || {});
    const up = all.filter((one) => health(one).tone === "good").length;
    say(cells.up, `${up}/${all.length}`);
    mark(cells.up, "data-tone", up === all.length ? "quiet" : up ? "warn" : "bad");
  }
}
