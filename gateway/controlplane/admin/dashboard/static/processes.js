// What runs behind a backend that `headgate up` serves: which model, where, since when, what it wrote
// last; and how is it scaled, loaded anew, started and stopped?

import { api } from "./api.js";
import { confirmEdit } from "./dialogs.js";
import { announce, h, mark, say } from "./dom.js";
import { ago, number, same } from "./model.js";

const LINES = 40;
const LOOK_MS = 3000;
const MAX_REPLICAS = 256;

// The process at `address`: of several the one that runs.
export function processAt(status, backend, address) {
  const all = (status.fleet?.backends?.[backend]?.processes || []).filter((one) => one.address === address);
  return all.find((one) => one.state !== "failed") || all[0];
}

// The addresses at which something runs, or could not be started.
export function addresses(status, backend) {
  return (status.fleet?.backends?.[backend]?.processes || []).map((one) => one.address);
}

// How far a process is that gets no requests.
export function standing(process) {
  return { word: process.state, tone: { failed: "bad", ready: "good", starting: "warn" }[process.state] || "quiet", more: process.error || "" };
}

const failed = (error) => announce(error.words || error.message, { bad: true });

// What can be done with all processes of one backend.
export class BackendControls {
  constructor(backend, refresh) {
    Object.assign(this, { backend, refresh, count: null, least: 0, most: MAX_REPLICAS });
    this.field = h("input", {
      type: "number", min: 0, max: MAX_REPLICAS, "aria-label": `Replicas of ${backend}`, "data-edits": true,
      oninput: () => this.offer(), onkeydown: (event) => { if (event.key === "Enter" && !this.scaling.hidden) this.scale(); },
    });
    this.scaling = this.button("scale", () => this.scale());
    this.scaling.hidden = true;
    this.turn = this.button("start", () => this.turned(this.turn.dataset.word));
    this.state = h("span", { class: "quiet" });
    this.element = h("span", { class: "controls" }, this.state,
      h("label", {}, "replicas ", this.field), this.scaling,
      this.button("reload", () => this.reload()), this.button("restart", () => this.tell("restart")), this.turn);
  }

  button(word, act) {
    return h("button", { type: "button", class: "small", "data-edits": true, "aria-label": `${word} ${this.backend}`, onclick: () => act() }, word);
  }

  update(spec, served) {
    const serve = spec?.serve;
    this.element.hidden = !serve || !served;
    if (!serve || !served) return;
    this.generation = serve.generation || 0;
    const count = serve.replicas ?? serve.scale?.min ?? Math.max(1, (spec.instances || []).filter((url) => !url.startsWith("fleet:")).length);
    // Outside of these its load would have it otherwise at once.
    this.least = serve.scale ? serve.scale.min ?? 1 : 0;
    this.most = serve.scale?.max ?? MAX_REPLICAS;
    mark(this.field, "min", this.least);
    mark(this.field, "max", this.most);
    if (this.count === null || (this.field.value === String(this.count) && document.activeElement !== this.field)) this.field.value = count;
    this.count = count;
    this.offer();
    say(this.state, served.waits ? `waiting: ${served.waits}` : "");
    const isDemand = serve.start === "demand";
    const isOff = isDemand ? served.state === "asleep" || served.state === "unloading" : count === 0;
    const word = isOff ? "start" : "stop";
    // What has an address that is written, or is scaled by its load, cannot be none.
    const fixed = (spec.instances || []).some((url) => !url.startsWith("fleet:"));
    this.turn.hidden = !isDemand && Boolean(serve.scale || fixed);
    this.isDemand = isDemand;
    say(this.turn, word);
    mark(this.turn, "data-word", word);
    mark(this.turn, "aria-label", `${word} ${this.backend}`);
  }

  offer() {
    const value = Number(this.field.value);
    this.scaling.hidden = value === this.count || !Number.isInteger(value) || this.field.value === "" || value < this.least || value > this.most;
  }

  async edit(words) {
    try {
      const answer = await confirmEdit({ ...words, tag: () => api.backendTag(this.backend) });
      if (!answer) return;
      this.count = null;
      announce(`${answer.applied ? `Revision ${answer.revision}: ` : ""}${words.action.toLowerCase()} ${this.backend}`);
      await this.refresh();
    } catch (error) {
      failed(error);
    }
  }

  patch(serve) {
    return (options) => api.patchBackend(this.backend, { serve }, options);
  }

  scale() {
    const replicas = Number(this.field.value);
    return this.edit({
      title: `${replicas} of ${this.backend}?`, action: "Scale", edit: this.patch({ replicas }),
      text: "New ones are ready before they get requests; those that go finish what they have.",
    });
  }

  reload() {
    return this.edit({
      title: `Load ${this.backend} anew?`, action: "Reload", edit: this.patch({ generation: this.generation + 1 }),
      text: "Each process is replaced by a new one, none sooner than that is ready.",
    });
  }

  // One that starts on demand is told; of another one none is asked for, or as many again as before.
  async turned(word) {
    if (this.isDemand) return this.tell(word);
    const stop = word === "stop";
    const replicas = stop ? 0 : await this.before().catch(() => 1);
    return this.edit({
      title: `${stop ? "Stop" : "Start"} ${this.backend}?`, action: stop ? "Stop" : "Start", edit: this.patch({ replicas }),
      text: stop ? "It finishes what it has, and its memory is free. Requests go where the route says, until it is started again." : "It gets requests as soon as it is ready.",
    });
  }

  // How many there were before it was stopped; null for as many as where nothing is said of it.
  async before() {
    const pointer = `/backends/${this.backend}/serve/replicas`;
    const changes = (await api.history(1000)).revisions.flatMap((edit) => edit.diff || []);
    const stopped = changes.find((change) => change.pointer === pointer && change.after === 0);
    return stopped ? stopped.before ?? null : 1;
  }

  tell(word) {
    const texts = {
      restart: "Each process is ended and started again where it is, one after the other.",
      start: "It is loaded now, as the next request would load it.",
      stop: "It finishes what it has, and its memory is free. The next request loads it again.",
    };
    return this.edit({
      title: `${word[0].toUpperCase()}${word.slice(1)} ${this.backend}?`, action: word[0].toUpperCase() + word.slice(1),
      text: texts[word], edit: (options) => api.tellBackend(this.backend, word, options),
    });
  }
}

// Which model a process is, and what it wrote last; asked for while it is to be seen.
export class Identity {
  constructor(backend, address, columns) {
    Object.assign(this, { backend, address, askedAt: 0, shown: null });
    this.facts = h("dl", { class: "identity" });
    this.log = h("pre", { class: "log", tabindex: 0, "aria-label": `The last lines of ${address}` });
    this.element = h("tr", { class: "detail", hidden: true, "data-of": address }, h("td", { colspan: columns }, this.facts, this.log));
    this.button = h("button", {
      type: "button", class: "fold", "aria-label": `What runs at ${address}`, "aria-expanded": "false",
      onclick: () => this.turn(),
    });
  }

  turn() {
    this.element.hidden = !this.element.hidden;
    mark(this.button, "aria-expanded", String(!this.element.hidden));
    this.askedAt = 0;
    if (this.process) this.update(this.process, this.spec);
  }

  update(process, spec) {
    Object.assign(this, { process, spec });
    this.button.hidden = !process;
    if (!process) this.element.hidden = true;
    if (this.element.hidden) return;
    const facts = known(process, spec);
    if (!same(facts, this.shown)) {
      this.shown = facts;
      this.facts.replaceChildren(...facts.map(([term, words]) => h("div", { "data-fact": term }, h("dt", {}, term), h("dd", {}, words))));
    }
    this.look();
  }

  async look() {
    if (this.element.hidden || Date.now() - this.askedAt < LOOK_MS) return;
    this.askedAt = Date.now();
    try {
      const { lines } = await api.logs(this.backend);
      const own = lines.filter((line) => line.instance === this.address).slice(-LINES);
      say(this.log, own.length ? own.map(({ text }) => plain(text)).join("\n") : "It has written nothing.");
    } catch (error) {
      say(this.log, error.words || error.message);
    }
  }
}

const size = (bytes) => (bytes === null || bytes === undefined ? null : bytes < 2 ** 30 ? `${number(bytes / 2 ** 20, 0)} MiB` : `${number(bytes / 2 ** 30)} GiB`);

function known(process, spec) {
  const name = process.model.split(":")[1];
  const args = Object.entries(spec?.serve?.args || {}).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
  const counted = size(process.memory);
  return [
    ["class", name || "all of the file"],
    ["file", process.source],
    ["version", `${process.version}${process.current ? "" : ", to be replaced"}`],
    ["arguments", process.current ? args.join(", ") : ""],
    ["device", (process.devices || []).join(", ")],
    ["process", process.pid ?? ""],
    ["memory", [size(process.resident), counted && `${counted} of its device`].filter(Boolean).join(", ")],
    ["started", process.started ? ago(process.started) : ""],
    ["restarts", String(process.restarts)],
    ["last error", process.error || (process.last_error ? `${process.last_error}, ${ago(process.last_error_at)}` : "none")],
  ].filter(([, words]) => words !== "" && words !== undefined).map(([term, words]) => [term, String(words)]);
}

// A line of the log as people read it.
function plain(text) {
  if (!text.startsWith("{")) return text;
  try {
    const { time, level, event, exception } = JSON.parse(text);
    return event ? `${(time || "").slice(11, 19)} ${level || ""} ${event}${exception ? `\n${exception}` : ""}` : text;
  } catch {
    return text;
  }
}
