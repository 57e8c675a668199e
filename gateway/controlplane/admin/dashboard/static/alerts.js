// What is wrong now? A list above everything else, the worst first; nothing where all is well.

import { by, h, mark, say } from "./dom.js";

const MAX_SHOWN = 8; // the rest is counted: a page of alerts hides the page

// What an alert is about: its words go on, as time and shares do.
const subject = ({ text, severity, ...about }) => JSON.stringify(about);

export function alerts(state) {
  const root = by("alerts");
  const list = by("alerts-body");
  let known = new Set();

  // Told to a screen reader once each, and not each second what has become of their numbers.
  function tell(found) {
    const fresh = found.filter((alert) => !known.has(subject(alert)));
    known = new Set(found.map(subject));
    if (!fresh.length) return;
    const more = fresh.length > MAX_SHOWN ? `; and ${fresh.length - MAX_SHOWN} more` : "";
    say(by("announcer"), fresh.slice(0, MAX_SHOWN).map(({ text }) => text).join("; ") + more);
  }

  return {
    update() {
      const found = state.status.alerts || [];
      root.hidden = !found.length;
      tell(found);
      const shown = found.slice(0, MAX_SHOWN);
      while (list.childElementCount > shown.length) list.lastChild.remove();
      while (list.childElementCount < shown.length) list.append(h("li", {}, h("a")));
      shown.forEach((alert, index) => {
        const line = list.children[index];
        mark(line, "data-tone", alert.severity === "critical" ? "bad" : "warn");
        mark(line, "data-kind", alert.kind);
        say(line.firstChild, alert.text);
        mark(line.firstChild, "href", alert.route ? `#route=${encodeURIComponent(alert.route)}` : null);
      });
      say(by("alerts-more"), found.length > MAX_SHOWN ? `and ${found.length - MAX_SHOWN} more` : "");
    },
  };
}
