// What happened in the last hour? Newest first; as many as fit into memory without a thought.

import { by, h } from "./dom.js";
import { changeWords, percent } from "./model.js";

const KEPT = 1000; // as the gateway does

export function events() {
  const root = by("events-body");

  function add(event) {
    const told = words(event);
    if (!told) return;
    const when = new Date(event.time || Date.now());
    const clock = when.toLocaleTimeString("en-GB");
    root.prepend(h("li", { "data-tone": told.tone || null },
      h("time", { datetime: when.toISOString() }, clock), h("span", { class: "kind" }, event.type), h("span", {}, told.text)));
    while (root.childElementCount > KEPT) root.lastChild.remove();
  }

  return {
    add,
    opened() {
      delete root.dataset.state;
    },
    closed() {
      root.dataset.state = "closed";
    },
  };
}

const TONES = { up: "good", down: "bad", failing: "warn", starting: "warn" };

function words(event) {
  switch (event.type) {
    case "hello":
      return null;
    case "edit": {
      const changed = (event.diff || []).slice(0, 2).map(changeWords).map(({ where, what }) => `${where} ${what}`);
      const more = (event.diff || []).length > 2 ? ` and ${event.diff.length - 2} more` : "";
      return { text: `revision ${event.revision} by ${event.who}${event.why ? ` (${event.why})` : ""}: ${changed.join("; ")}${more}` };
    }
    case "health":
      return { text: `${event.instance} of ${event.backend}: ${event.from} → ${event.to}`, tone: TONES[event.to] };
    case "ejection":
      return event.ejected_s > 0
        ? { text: `${event.instance} of ${event.backend} is out for ${Math.round(event.ejected_s)} s`, tone: "bad" }
        : { text: `${event.instance} of ${event.backend} is back`, tone: "good" };
    case "gateway":
      return { text: `${event.gateway} ${event.what}`, tone: event.what === "lost" ? "bad" : "good" };
    case "cluster":
      return event.what === "lost"
        ? { text: `cannot be reached since ${event.since}: nothing is placed meanwhile`, tone: "bad" }
        : { text: `is reached again, as it was not since ${event.since}`, tone: "good" };
    case "effective": {
      const shares = Object.entries(event.effective || {}).map(([name, share]) => `${name} ${percent(share)}`);
      return { text: `${event.route} goes to ${shares.join(", ")}` };
    }
    case "process":
      return { text: `${event.instance} of ${event.backend}: ${event.state}${event.detail ? `: ${event.detail}` : ""}`, tone: event.state === "failed" ? "bad" : undefined };
    case "rollout": {
      const tones = { done: "good", rolled_back: "bad", aborted: "warn", paused: "warn", waiting: "warn" };
      const where = `${event.route} to ${event.to}: ${event.state.replaceAll("_", " ")}, step ${event.step}, ${event.share} %`;
      return { text: `${where}: ${event.why}`, tone: tones[event.state] };
    }
    case "start":
    case "stop":
    case "restart":
      return { text: `${event.backend} by ${event.who}${event.why ? ` (${event.why})` : ""}` };
    case "demand":
      return { text: `${event.backend}: ${event.state}${event.detail ? `: ${event.detail}` : ""}`, tone: event.state === "failed" ? "bad" : undefined };
    case "worker":
      return { text: `worker ${event.slot} ${event.what} (process ${event.pid})`, tone: event.what === "lost" ? "bad" : "good" };
    case "lost":
      return { text: `${event.events ?? "some"} events were missed`, tone: "warn" };
    default: {
      const { type, time, ...rest } = event;
      return { text: JSON.stringify(rest) };
    }
  }
}
