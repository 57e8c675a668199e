// How is one split edited? A draft is moved freely; the gateway says in a dry run what it would
// change; only Apply changes anything, bound to the state that the draft was compared with.

import { api, Refused } from "./api.js";
import { announce, h, mark, say, vars } from "./dom.js";
import { keepSum, MAX_WEIGHT, percent, same, shares } from "./model.js";

const TRY_AFTER_MS = 180;

export class SplitEditor {
  constructor(route, split, tints, { columns, refresh, drawn }) {
    Object.assign(this, { route, refresh, drawn, tints });
    this.base = { ...split };
    this.draft = { ...split };
    this.etag = null;
    this.revision = 0;
    this.controls = new Map();
    this.timer = 0;
    this.tries = 0;
    this.applying = false;
    this.build(columns);
  }

  get busy() {
    return !same(this.draft, this.base) || this.applying;
  }

  build(columns) {
    this.list = h("ul", { class: "diff" });
    this.word = h("p", { class: "word", role: "status" });
    this.reason = h("input", { type: "text", maxlength: 500, autocomplete: "off", placeholder: "Why? For the history", "aria-label": `Reason for the edit of ${this.route}` });
    this.keep = h("input", { type: "checkbox", checked: true });
    this.applyButton = h("button", { type: "submit", class: "main" }, "Apply");
    const discard = h("button", { type: "button", onclick: () => this.discard() }, "Discard");
    const form = h("form", { class: "edit", onsubmit: (event) => { event.preventDefault(); this.apply(); } },
      h("div", { class: "told" }, this.list, this.word),
      h("label", { class: "keep" }, this.keep, " Keep the sum"),
      this.reason, h("div", { class: "buttons" }, discard, this.applyButton));
    form.addEventListener("keydown", (event) => { if (event.key === "Escape") this.discard(); });
    this.panel = h("tr", { class: "editing", hidden: true }, h("td", { colspan: columns }, form));
  }

  // The slider and the number of one backend.
  control(backend) {
    const tint = `var(--tint-${this.tints.get(backend) ?? 0})`;
    const slider = h("input", { type: "range", "data-edits": true, min: 0, step: 1, "aria-label": `Weight of ${backend} in ${this.route}`, vars: { "--tint": tint } });
    const exact = h("input", { type: "number", "data-edits": true, min: 0, max: MAX_WEIGHT, step: 1, inputmode: "numeric", "aria-label": `Weight of ${backend} in ${this.route}, as a number` });
    slider.addEventListener("input", () => this.move(backend, Number(slider.value), this.keep.checked));
    exact.addEventListener("input", () => this.type(backend, exact));
    exact.addEventListener("focus", () => exact.select());
    exact.addEventListener("blur", () => this.draw());
    for (const input of [slider, exact]) {
      input.addEventListener("keydown", (event) => { if (event.key === "Escape") this.discard(); });
    }
    this.controls.set(backend, { slider, exact });
    return h("div", { class: "control" }, slider, exact);
  }

  move(backend, weight, keep, typing = null) {
    this.set(keep ? keepSum(this.draft, backend, weight) : { ...this.draft, [backend]: weight }, typing);
  }

  type(backend, exact) {
    const weight = Number(exact.value);
    const whole = exact.value !== "" && Number.isInteger(weight) && weight >= 0 && weight <= MAX_WEIGHT;
    mark(exact, "aria-invalid", whole ? null : "true");
    if (!whole) return;
    const sum = Object.values(this.draft).reduce((total, one) => total + one, 0);
    this.move(backend, weight, this.keep.checked && weight <= sum, exact);
  }

  set(draft, typing = null) {
    this.draft = draft;
    this.draw(typing);
    clearTimeout(this.timer);
    this.tries += 1;
    if (this.busy) this.timer = setTimeout(() => this.tryOut(), TRY_AFTER_MS);
  }

  draw(typing = null) {
    // Of the base and not of the draft: a scale that grew under the hand would run away from it.
    const sum = Object.values(this.base).reduce((total, weight) => total + weight, 0);
    const most = Math.max(100, sum, ...Object.values(this.draft));
    const part = shares(this.draft);
    for (const [backend, { slider, exact }] of this.controls) {
      const weight = this.draft[backend];
      mark(slider, "max", most);
      if (Number(slider.value) !== weight) slider.value = weight;
      if (exact !== typing && exact.value !== String(weight)) {
        exact.value = weight;
        mark(exact, "aria-invalid", null);
      }
      vars(slider, { "--part": `${most ? (100 * weight) / most : 0}%` });
      mark(slider, "aria-valuetext", `${weight}, ${percent(part[backend])}`);
      mark(exact, "data-edited", weight !== this.base[backend]);
    }
    this.drawn(this.draft);
    this.panel.hidden = !this.busy;
    if (this.busy) this.tell();
  }

  tell() {
    const [was, is] = [shares(this.base), shares(this.draft)];
    const changed = Object.keys(this.draft).filter((name) => this.draft[name] !== this.base[name]);
    this.list.replaceChildren(...changed.map((name) => h("li", {},
      h("b", {}, name), ` ${this.base[name]} → ${this.draft[name]}`,
      h("span", { class: "quiet" }, `${percent(was[name])} → ${percent(is[name])}`))));
  }

  // Asks the gateway what the draft would change. An answer to an older draft is not shown.
  async tryOut() {
    const mine = this.tries;
    try {
      if (!this.etag) await this.readBase();
      const answer = await api.setWeights(this.route, this.draft, { dryRun: true, etag: this.etag });
      if (mine !== this.tries) return;
      const changes = (answer.diff || []).length;
      this.word.className = "word";
      say(this.word, `Dry run: ${changes} weight${changes === 1 ? "" : "s"} would change; revision ${this.nextRevision(answer)}.`);
      this.applyButton.disabled = false;
    } catch (error) {
      if (mine === this.tries) this.fault(error);
    }
  }

  nextRevision(answer) {
    return `${answer.revision} → ${answer.revision + 1}`;
  }

  async readBase() {
    const { answer, etag } = await api.weights(this.route);
    this.etag = etag;
    this.base = { ...answer.weights };
    this.draw();
  }

  fault(error) {
    this.word.className = "word fault";
    if (error instanceof Refused && error.status === 412) {
      // Someone else was faster: what they made is the new base, the draft stays.
      this.etag = null;
      say(this.word, "Someone else edited this split. Look again at what would change, then apply.");
      this.readBase().then(() => this.busy && this.tryOut()).catch(() => {});
      return;
    }
    say(this.word, error instanceof Refused ? error.words : error.message);
    this.applyButton.disabled = error instanceof Refused;
  }

  async apply() {
    if (!this.busy || this.applying) return;
    clearTimeout(this.timer);
    this.tries += 1;
    this.applying = true;
    this.applyButton.disabled = true;
    try {
      if (!this.etag) await this.readBase();
      const answer = await api.setWeights(this.route, this.draft, { reason: this.reason.value.trim(), etag: this.etag });
      this.base = { ...answer.weights };
      this.draft = { ...answer.weights };
      this.revision = answer.revision;
      this.reason.value = "";
      const workers = answer.applied?.workers ?? 0;
      announce(`Revision ${answer.revision}: ${this.route} is edited, on ${workers} worker${workers === 1 ? "" : "s"}`);
      await this.refresh();
    } catch (error) {
      this.fault(error);
    } finally {
      this.applying = false;
      this.etag = null;
      this.applyButton.disabled = false;
      this.draw();
    }
  }

  discard() {
    this.draft = { ...this.base };
    this.etag = null;
    this.reason.value = "";
    say(this.word, "");
    this.set(this.draft);
    this.controls.values().next().value?.slider.focus();
  }

  // What is configured now. A draft in hand stays, compared with the new base.
  rebase(weights, revision) {
    if (!weights || this.applying || revision < this.revision || same(weights, this.base)) return;
    const busy = this.busy;
    this.base = { ...weights };
    if (!busy) this.draft = { ...weights };
    this.etag = null;
    this.draw();
    if (this.busy) this.tryOut();
  }
}
