// How far is a route's rollout, what speaks against its canary, and what may a person tell it?

import { api, Refused } from "./api.js";
import { announce, h, mark, say, vars } from "./dom.js";
import { same } from "./model.js";

const WORDS = {
  running: ["pause", "promote", "abort"],
  paused: ["resume", "promote", "abort"],
  waiting: ["approve", "pause", "abort"],
};
const TONES = {
  done: "good", rolled_back: "bad", aborted: "bad", paused: "warn", waiting: "warn",
  failed: "bad", failing: "warn", well: "good",
};

const plain = (word) => word.replaceAll("_", " ");

// How far evidence is from its threshold, as logarithms go: 0 at 1, 1 where the guard fails.
export const risen = (guard) => Math.min(1, Math.log(Math.max(1, guard.evidence)) / Math.log(guard.threshold));

// What its step has of what the next one needs; nothing once it has ended.
const needsOf = ({ state, step, plan, held_s, requests }) => {
  const needs = plan?.steps[step - 1];
  if (!needs || !WORDS[state]) return "";
  const asks = needs.approval ? ", then approval" : "";
  return `${Math.round(held_s)}s of ${needs.hold}, ${requests} of ${needs.min_requests} requests${asks}`;
};

// What a person sees of where it is, and means when saying how it shall go on.
const shapeOf = ({ started, state, step, driver, guards }) => [started, state, step, driver, Object.keys(guards)];

export class RolloutPanel {
  constructor(route, columns, refresh) {
    this.route = route;
    this.refresh = refresh;
    this.shown = null;
    this.box = h("div", { class: "rollout" });
    this.element = h("tr", { hidden: true }, h("td", { colspan: columns }, this.box));
  }

  // Drawn anew where the steps are others, and only written into otherwise.
  update(rollout) {
    this.element.hidden = !rollout;
    if (!rollout) return;
    const shape = shapeOf(rollout);
    if (!same(shape, this.shown)) {
      this.shown = shape;
      const held = this.box.contains(document.activeElement);
      this.build(rollout);
      if (held) this.box.querySelector("button")?.focus();
    }
    say(this.last, rollout.held ? `held: ${rollout.held}` : (rollout.history.at(-1)?.why ?? ""));
    mark(this.last, "data-tone", rollout.pending ? "bad" : null);
    say(this.needs, needsOf(rollout));
    for (const [name, guard] of Object.entries(rollout.guards)) this.write(this.guards.get(name), guard);
  }

  build(rollout) {
    const head = h("p", { class: "head" },
      h("span", { class: "pill", "data-tone": TONES[rollout.state] }, plain(rollout.state)),
      ` rollout to ${rollout.to}, ${rollout.share} %`, rollout.why ? h("span", { class: "quiet" }, ` ${rollout.why}`) : null,
      rollout.driver ? h("span", { class: "quiet" }, ` driven by gateway ${rollout.driver}`) : null);
    const steps = (rollout.plan?.steps || []).map((step, index) => this.step(rollout, step, index + 1));
    this.guards = new Map(Object.keys(rollout.guards).map((name) => [name, this.guard(name)]));
    this.last = h("p", { class: "quiet", "data-last": true });
    this.needs = h("p", { class: "quiet", "data-needs": true });
    this.box.replaceChildren(head,
      h("ol", { class: "track", "aria-label": "Steps" }, ...steps),
      this.needs,
      h("ul", { class: "guards" }, ...[...this.guards.values()].map((guard) => guard.element)),
      this.last,
      h("div", { class: "buttons" }, ...(WORDS[rollout.state] || []).map((word) => this.button(word))));
  }

  step(rollout, step, number) {
    const passed = number < rollout.step || rollout.state === "done";
    const word = passed ? "passed" : number === rollout.step ? rollout.state : "ahead";
    const asks = step.approval ? ", then approval" : "";
    return h("li", { "data-step": word, "aria-current": number === rollout.step ? "step" : null, title: `${step.hold}, ${step.min_requests} requests${asks}` },
      `${step.percent} %`, h("span", { class: "unseen" }, ` ${plain(word)}`));
  }

  guard(name) {
    const verdict = h("span", { class: "pill" });
    const meter = h("span", { class: "meter", role: "meter", "aria-valuemin": 0, "aria-valuemax": 1, "aria-label": `evidence of ${name}` }, h("span"));
    const found = h("span", { class: "found" });
    return { verdict, meter, found, element: h("li", { "data-guard": name }, h("b", {}, name), verdict, meter, found) };
  }

  write({ verdict, meter, found }, guard) {
    say(verdict, plain(guard.verdict));
    mark(verdict, "data-tone", TONES[guard.verdict] || "quiet");
    const part = risen(guard);
    mark(meter, "aria-valuenow", part.toFixed(2));
    mark(meter, "data-tone", TONES[guard.verdict] || null);
    vars(meter.firstChild, { width: `${100 * part}%` });
    say(found, guard.sentence.slice(guard.sentence.indexOf(":") + 2));
  }

  button(word) {
    return h("button", { type: "button", "data-edits": true, "data-word": word, onclick: () => this.tell(word) }, word);
  }

  async tell(word) {
    const seen = this.shown;
    try {
      const said = await this.told(word, seen);
      announce(`${this.route}: ${said ?? "the rollout has moved on meanwhile: look again"}`, { bad: !said });
      await this.refresh();
    } catch (error) {
      announce(`${this.route}: ${error instanceof Refused ? error.words : error.message}`, { bad: true });
    }
  }

  // What was done; null where the rollout is not where it was seen: a word that was meant for one
  // step must not lead on from the next.
  async told(word, seen) {
    const { answer, etag } = await api.rollout(this.route);
    if (!same(shapeOf(answer), seen)) return null;
    try {
      await api.tellRollout(this.route, word, { etag });
    } catch (error) {
      if (error instanceof Refused && error.status === 412) return null;
      throw error;
    }
    return `rollout ${word}`;
  }
}
