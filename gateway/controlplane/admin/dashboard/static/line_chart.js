// How is one chart drawn? As SVG paths on the last minutes. A pointer or the arrow keys
// move a cursor that all charts share; its values are written out, and said when asked for.

import { h, mark, say, vars } from "./dom.js";
import { number } from "./model.js";

const HEIGHT = 136;
const TOP = 18;
const BOTTOM = 18;
const LATE_MS = 3000; // a point is that late: the line is broken rather than invented
const MARKS = 26; // so many pixels from one named edit to the next

export class LineChart {
  constructor(key, title, cursor, redraw) {
    Object.assign(this, { key, title, cursor, redraw, width: 300, lines: [], until: 0, span: 60_000 });
    this.plot = h("svg", { class: "plot", height: HEIGHT, role: "img", tabindex: 0 });
    this.now = h("p", { class: "now" });
    this.element = h("figure", { class: "chart", "data-chart": key },
      h("figcaption", {}, title), this.now, this.plot);
    new ResizeObserver(([entry]) => {
      this.width = Math.max(160, Math.round(entry.contentRect.width));
      this.paint();
    }).observe(this.plot);
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => this.moveTo(null));
    this.plot.addEventListener("blur", () => this.moveTo(null));
    this.plot.addEventListener("keydown", (event) => this.step(event));
  }

  // `most`: seconds that are shown at most.
  draw(lines, marks, most) {
    this.lines = lines;
    this.marks = marks;
    this.until = Date.now();
    // A young gateway shows a short time in full rather than a long one that is empty.
    const first = Math.min(this.until, ...lines.map(({ points }) => points[0]?.at ?? this.until));
    this.span = Math.min(most * 1000, Math.max(60_000, this.until - first));
    this.paint();
  }

  point(event) {
    const box = this.plot.getBoundingClientRect();
    this.moveTo(this.since + ((event.clientX - box.left) / box.width) * this.span);
  }

  step(event) {
    const far = this.span / 60;
    const steps = { ArrowLeft: -far, ArrowRight: far, Home: -this.span, End: this.span };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const at = (this.cursor.at ?? this.until) + steps[event.key];
    this.moveTo(Math.min(this.until, Math.max(this.since, at)));
  }

  moveTo(at) {
    this.cursor.at = at;
    this.redraw();
  }

  get since() {
    return this.until - this.span;
  }

  x(at) {
    return ((at - this.since) / this.span) * this.width;
  }

  paint() {
    if (!this.until) return;
    mark(this.plot, "viewBox", `0 0 ${this.width} ${HEIGHT}`);
    const all = this.lines.flatMap((line) => line.points.map((point) => point[this.key]));
    const most = roundUp(Math.max(0, ...all.filter((value) => value !== null)));
    const y = (value) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
    const parts = [...this.grid(most, y), ...this.edits()];
    for (const line of this.lines) parts.push(this.line(line, y));
    parts.push(...this.scale(most, y));
    if (this.cursor.at !== null && this.cursor.at >= this.since) parts.push(...this.crosshair(y));
    this.plot.replaceChildren(...parts);
    this.tell();
  }

  grid(most, y) {
    return [0, most / 2, most].map((value) =>
      h("line", { class: "grid", x1: 0, x2: this.width, y1: y(value), y2: y(value) }));
  }

  // Over the lines, with a halo: a line that passes behind a number leaves it legible.
  scale(most, y) {
    const parts = [most / 2, most].map((value) =>
      h("text", { class: "tick", x: 0, y: y(value) - 3 }, value.toLocaleString("en", { maximumFractionDigits: 2 })));
    const step = [15, 30, 60, 300, 600].find((each) => each * 6000 >= this.span) ?? 600;
    for (let back = step; back * 1000 < this.span - 5000; back += step) {
      const words = back % 60 ? `−${back} s` : `−${back / 60} min`;
      parts.push(h("text", { class: "tick", x: this.x(this.until - back * 1000), y: HEIGHT - 4, "text-anchor": "middle" }, words));
    }
    return parts;
  }

  edits() {
    let named = -MARKS;
    return (this.marks || []).filter((edit) => edit.at > this.since).map((edit) => {
      const x = this.x(edit.at);
      const name = x - named >= MARKS ? h("text", { x: x - 3, y: TOP + 8, "text-anchor": "end" }, `r${edit.revision}`) : null;
      if (name) named = x;
      return h("g", { class: "edit-mark" }, h("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }), name);
    });
  }

  line({ points, tint }, y) {
    let path = "";
    let last = null; // the point before, where it is none of nothing
    for (const point of points) {
      const value = point[this.key];
      if (value === null) {
        last = null;
        continue;
      }
      const joined = last && point.at - last.at < Math.max(point.every, last.every) + LATE_MS;
      // One that stands alone is a dot.
      path += `${joined ? "L" : "M"}${this.x(point.at).toFixed(1)} ${y(value).toFixed(1)}${joined ? "" : "h0"}`;
      last = point;
    }
    const drawn = h("path", { class: "line", d: path });
    vars(drawn, { "--tint": `var(--tint-${tint})` });
    return drawn;
  }

  crosshair(y) {
    const x = this.x(this.cursor.at);
    const parts = [h("line", { class: "cursor", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM })];
    for (const line of this.lines) {
      const point = nearest(line.points, this.cursor.at);
      if (point && point[this.key] !== null) {
        const dot = h("circle", { class: "dot", cx: this.x(point.at), cy: y(point[this.key]), r: 3 });
        vars(dot, { "--tint": `var(--tint-${line.tint})` });
        parts.push(dot);
      }
    }
    return parts;
  }

  // The values at the cursor, or the newest.
  tell() {
    const values = this.lines.map(({ name, tint, points }) => {
      const point = this.cursor.at === null ? points.at(-1) : nearest(points, this.cursor.at);
      return { name, tint, text: number(point?.[this.key]) };
    });
    if (this.now.childElementCount !== values.length) this.now.replaceChildren(...values.map(() => h("span")));
    values.forEach(({ tint, text }, index) => {
      vars(this.now.children[index], { "--tint": `var(--tint-${tint})` });
      say(this.now.children[index], text);
    });
    const words = values.map(({ name, text }) => `${name} ${text}`).join(", ");
    const when = this.cursor.at === null ? "now" : ago(this.until - this.cursor.at);
    mark(this.plot, "aria-label", `${this.title}, ${when}: ${words || "nothing yet"}`);
  }
}

function nearest(points, at) {
  let found = null;
  for (const point of points) {
    if (!found || Math.abs(point.at - at) < Math.abs(found.at - at)) found = point;
  }
  return found && Math.abs(found.at - at) < found.every + LATE_MS ? found : null;
}

function ago(ms) {
  return ms < 120_000 ? `${Math.round(ms / 1000)} seconds ago` : `${Math.round(ms / 60_000)} minutes ago`;
}

// The next of 1, 2, 5 times a power of ten, so that the scale stands still while values move.
function roundUp(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}
