// How often does a route's mirror agree with what clients get, and where does it not?

import { api } from "./api.js";
import { h, mark, say } from "./dom.js";
import { number, percent, same } from "./model.js";

const EXAMPLES = 10;
const quoted = (value) => (value === undefined ? "–" : JSON.stringify(value));
const time = (text) => new Date(text).toLocaleTimeString("en-GB");

export class MirrorPanel {
  constructor(route, spec, columns) {
    this.route = route;
    this.isCompared = Boolean(spec.mirror?.compare);
    this.asked = false;
    this.shown = null;
    this.head = h("p", { class: "head" });
    this.rest = h("p", { class: "quiet" });
    this.fields = h("div", {});
    this.examples = h("details", { hidden: true });
    const box = h("div", { class: "mirror" }, this.head, this.rest, this.fields, this.examples);
    this.element = h("tr", { class: "mirrored", hidden: !this.isCompared }, h("td", { colspan: columns }, box));
  }

  // Asks once more, unless an answer is still to come or nobody sees it: there may be hundreds.
  async update() {
    if (!this.isCompared || this.asked || !this.element.checkVisibility()) return;
    this.asked = true;
    try {
      this.write(await api.mirror(this.route));
    } catch {
      // The next look says what is wrong, where anything is.
    } finally {
      this.asked = false;
    }
  }

  write(found) {
    const noise = found.noise_floor;
    say(this.head, `mirror ${found.backend} ${told(found)}`);
    mark(this.head, "data-agreement", found.agreement);
    const more = ["unanswered", "dropped"].filter((word) => found.verdicts[word])
      .map((word) => `${number(found.verdicts[word], 0)} ${word}`);
    if (noise) more.unshift(`the stable version with itself ${told(noise)}`);
    if (found.learning) more.push(`${found.learning} wait until it is known how much is noise`);
    say(this.rest, more.join(", "));
    const shape = [found.fields, found.samples.length && found.samples[0]];
    if (same(shape, this.shown)) return;
    this.shown = shape;
    this.fields.replaceChildren(...(Object.keys(found.fields).length ? [fields(found)] : []));
    this.list(found.samples.slice(0, EXAMPLES));
  }

  list(samples) {
    this.examples.hidden = !samples.length;
    const rows = samples.flatMap((sample) => Object.entries(sample.differs).map(([pointer, sides], index) => h("tr", {},
      h("td", {}, index ? "" : time(sample.time)), h("td", {}, h("code", {}, pointer || '""')),
      h("td", { "data-side": "stable" }, quoted(sides.stable)), h("td", { "data-side": "mirror" }, quoted(sides.mirror)))));
    this.examples.replaceChildren(h("summary", {}, "The last pairs that differ"),
      table("examples", ["When", "Where", "Stable", "Mirror"], rows));
  }
}

function told({ pairs, agreement, interval }) {
  if (!pairs) return "has no pairs yet";
  const [low, high] = interval.map(percent);
  return `agrees in ${percent(agreement)} of ${pairs} pairs (${low} to ${high})`;
}

function fields(found) {
  const noise = found.noise_floor?.fields || {};
  const rows = Object.entries(found.fields).map(([name, field]) => h("tr", { "data-field": name },
    h("td", {}, h("code", {}, name || '""')), h("td", { class: "num" }, String(field.differ)),
    h("td", { class: "num" }, field.agreement === null ? "–" : percent(field.agreement)),
    h("td", { class: "num" }, field.by ? `${field.by.mean}, at most ${field.by.max}` : ""),
    h("td", { class: "num" }, String(noise[name]?.differ ?? ""))));
  return table("fields", ["Field", "Differ", "Agree", "By", "With itself"], rows);
}

function table(kind, titles, rows) {
  return h("table", { class: kind }, h("thead", {}, h("tr", {}, ...titles.map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, ...rows));
}
