// Which instances are there, how are they, and what have they to do?

import { api, Refused } from "./api.js";
import { announce, by, h, keepRoles, mark, say, vars } from "./dom.js";
import { colours, health, number } from "./model.js";
import { addresses, BackendControls, Identity, processAt, standing } from "./processes.js";

const COLUMNS = ["Instance", "Health", "In flight", "Queued there", "Running", "Wait, ms", ""];
const ACTIONS = { "": ["drain", "disable"], draining: ["resume", "disable"], disabled: ["enable"] };

export function instances(state, refresh) {
  const root = by("instances-body");
  let shape = null;
  let rows = new Map();
  let controls = new Map();

  // Where `headgate up` starts them: only there is there anything to be known of processes.
  const isServed = (backend) => Boolean(state.status.fleet?.backends?.[backend]);

  // Of those that get requests, and of those that run besides.
  const listed = (backend, live) => [...new Set([...Object.keys(live.instances || {}), ...addresses(state.status, backend)])];

  function build() {
    const tints = colours(state.table);
    const open = new Set([...rows.keys()].filter((row) => row.identity && !row.identity.element.hidden).map((row) => row.key));
    rows = new Map();
    controls = new Map();
    const bodies = Object.entries(state.status.backends || {}).map(([backend, live]) => {
      const made = listed(backend, live).flatMap((address) => {
        const identity = isServed(backend) ? new Identity(backend, address, COLUMNS.length) : null;
        const row = new InstanceRow(backend, address, refresh, identity);
        rows.set(row, [backend, address]);
        if (identity && open.has(row.key)) identity.turn();
        return identity ? [row.element, identity.element] : [row.element];
      });
      if (isServed(backend)) controls.set(backend, new BackendControls(backend, refresh));
      const chip = h("span", { class: "chip", "aria-hidden": true, vars: { "--tint": `var(--tint-${tints.get(backend) ?? 0})` } });
      const title = h("tr", { class: "of" }, h("th", { colspan: COLUMNS.length, scope: "rowgroup" },
        h("div", { class: "heading" }, h("span", {}, chip, backend), controls.get(backend)?.element ?? null)));
      const none = h("tr", {}, h("td", { colspan: COLUMNS.length, class: "none" }, nobody(state.status, backend)));
      return h("tbody", { "data-of": backend }, title, ...(made.length ? made : [none]));
    });
    const head = h("thead", {}, h("tr", {}, ...COLUMNS.map((words, index) =>
      h("th", { scope: "col", class: index > 1 && words ? "num" : "" }, words || h("span", { class: "unseen" }, "Actions")))));
    root.replaceChildren(keepRoles(h("table", { class: "instances" },
      h("caption", { class: "unseen" }, "Instances by backend"), head, ...bodies)));
  }

  return {
    update() {
      const backends = state.status.backends || {};
      const next = JSON.stringify(Object.entries(backends).map(([name, live]) =>
        [name, listed(name, live), isServed(name), nobody(state.status, name)]));
      if (next !== shape) {
        shape = next;
        build();
      }
      let left = 0;
      for (const body of root.querySelectorAll("tbody")) {
        const isWell = Object.values(backends[body.dataset.of]?.instances || {}).every((one) => health(one).tone === "good");
        body.hidden = Boolean(state.open) && !state.open.has(body.dataset.of) && (Boolean(state.only) || isWell);
        left += body.hidden;
      }
      say(by("instances-note"), left ? `of the routes that are open, and those that are not well; ${left} backends more are fine or of other routes` : "");
      for (const [row, [backend, address]] of rows) {
        const process = processAt(state.status, backend, address);
        row.update(backends[backend].instances[address], process);
        row.identity?.update(process, state.table.backends?.[backend]);
      }
      for (const [name, one] of controls) one.update(state.table.backends?.[name], state.status.fleet?.backends?.[name]);
    },
  };
}

// Why a backend has no instance, where `headgate up` starts them.
function nobody(status, backend) {
  const served = status.fleet?.backends?.[backend] || {};
  const words = {
    stopped: "stopped: none of it is asked for",
    asleep: "asleep: the next request loads it",
    starting: served.waits ? `waiting: ${served.waits}` : "loading",
    unloading: "unloading",
    failed: served.error,
  };
  return words[served.state] || "no instance";
}

class InstanceRow {
  constructor(backend, address, refresh, identity) {
    Object.assign(this, { backend, address, refresh, identity });
    const cell = (label) => h("td", { class: "num", "data-label": label });
    this.word = h("span", { class: "pill" });
    this.more = h("span", { class: "quiet more" });
    this.count = h("span");
    this.bar = h("span", { class: "meter", "aria-hidden": true });
    this.cells = { queue: cell("Queued there"), running: cell("Running"), wait: cell("Wait, ms") };
    this.actions = h("td", { class: "actions" });
    this.key = `${backend} ${address}`;
    this.element = h("tr", { "data-instance": address },
      h("th", { scope: "row" }, identity?.button ?? null, h("code", {}, address)),
      h("td", { class: "health" }, this.word, this.more),
      h("td", { class: "num load", "data-label": "In flight" }, this.bar, this.count),
      ...Object.values(this.cells), this.actions);
    this.stateShown = null;
  }

  update(found, process) {
    const live = found || {};
    const { word, tone, more } = found || !process ? health(live) : standing(process);
    say(this.word, word);
    mark(this.word, "data-tone", tone);
    say(this.more, more || live.cause || "");
    const report = live.report || {};
    this.bar.hidden = !found;
    say(this.count, number(live.in_flight, 0));
    const slots = report.slots || Math.max(1, live.in_flight || 0);
    vars(this.bar, { "--part": `${Math.min(100, (100 * (live.in_flight || 0)) / slots)}%` });
    say(this.cells.queue, number(report.queue, 0));
    say(this.cells.running, report.slots ? `${number(report.running, 0)}/${number(report.slots, 0)}` : number(report.running, 0));
    say(this.cells.wait, number(report.wait_ms));
    this.offer(found ? live.state || "" : "none");
  }

  // The actions that make sense in this state.
  offer(state) {
    if (state === this.stateShown) return;
    this.stateShown = state;
    const held = this.actions.contains(document.activeElement);
    this.actions.replaceChildren(...(ACTIONS[state] || []).map((action) => h("button", {
      type: "button", class: "small", "data-edits": true, "aria-label": `${action} ${this.address}`, onclick: () => this.act(action),
    }, action)));
    if (held) this.actions.querySelector("button")?.focus();
  }

  async act(action) {
    try {
      const answer = await this.edit(action);
      announce(`Revision ${answer.revision}: ${action} ${this.address}`);
      await this.refresh();
    } catch (error) {
      announce(error instanceof Refused ? error.words : error.message, { bad: true });
    }
  }

  async edit(action) {
    try {
      return await api.instance(this.backend, this.address, action, {});
    } catch (error) {
      if (!(error instanceof Refused) || error.status !== 428) throw error;
      return api.instance(this.backend, this.address, action, { etag: await api.backendTag(this.backend) });
    }
  }
}
