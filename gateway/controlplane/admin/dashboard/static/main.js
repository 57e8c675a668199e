// What does the page do over time? It looks at the status once a second while it is seen, hears
// the events, reads the table and the history when they changed, and hands what it has to views.

import { api, listen, Refused, Unreachable } from "./api.js";
import { alerts } from "./alerts.js";
import { charts } from "./charts.js";
import { askToken } from "./dialogs.js";
import { announce, by, mark, say } from "./dom.js";
import { events } from "./events.js";
import { gateways } from "./gateways.js";
import { history } from "./history.js";
import { instances } from "./instances.js";
import { Series } from "./model.js";
import { keys } from "./keys.js";
import { permission } from "./permission.js";
import { routes } from "./routes.js";
import { summary } from "./summary.js";

const LOOK_MS = 1000;
const LATE_MS = 5000; // what was seen is not called live for longer without an answer

const state = {
  table: null, status: null, used: null, revisions: [], series: new Map(), whole: new Series(), marks: [], only: null, open: null,
};
const views = [alerts, summary, routes, charts, gateways, instances, keys, permission].map((view) => view(state, refresh));
const historyView = history(state, refresh);
const eventsView = events();

let looked = null;

// What is shown while nobody answers is old, and says from when it is.
function lost(text) {
  const clock = looked ? looked.toLocaleTimeString("en-GB") : null;
  if (by("link").dataset.state !== "lost") announce(`The gateway: ${text}`, { bad: true });
  link("lost", clock ? `${text}; shown: ${clock}` : text);
}

function link(word, text) {
  mark(by("link"), "data-state", word);
  say(by("link-text"), text);
}

// Reads what an edit may have changed; also called by the views after their own edits.
async function refresh() {
  // One after the other: without the token each of them would count as a wrong guess.
  state.table = await api.table();
  state.revisions = (await api.history()).revisions || [];
  historyView.update();
  await look();
}

async function look() {
  const status = await api.status();
  if (!state.table || status.revision !== state.table.revision) state.table = await api.table();
  state.status = status;
  state.used = Object.keys(state.table.keys || {}).length ? (await api.keys()).used : null;
  const now = Date.now();
  looked = new Date(now);
  for (const [name, backend] of Object.entries(status.backends || {})) {
    if (!state.series.has(name)) state.series.set(name, new Series());
    state.series.get(name).add(now, backend);
  }
  if (status.gateway) state.whole.add(now, status.gateway);
  for (const name of state.series.keys()) if (!Object.hasOwn(status.backends || {}, name)) state.series.delete(name);
  draw();
}

function draw() {
  const workers = state.status.workers || [];
  const behind = workers.filter((worker) => worker.revision !== state.status.revision).length;
  const many = `${workers.length} worker${workers.length === 1 ? "" : "s"}`;
  say(by("facts"), `revision ${state.status.revision} · ${many}${behind ? `, ${behind} not there yet` : ""}`);
  if (state.status.listen) {
    const url = new URL("/-/docs", state.status.listen);
    if (["0.0.0.0", "[::]"].includes(url.hostname)) url.hostname = location.hostname; // everywhere, so here too
    mark(by("route-docs"), "href", url.href);
    by("route-docs").hidden = false;
  }
  for (const view of views) view.update();
  historyView.age();
  document.title = `Headgate · ${state.only ?? `revision ${state.status.revision}`}`;
}

// Runs `work`, asking for the token as often as the gateway does; true when it succeeded.
async function attempt(work) {
  const late = setTimeout(() => lost("no answer"), LATE_MS);
  try {
    await work();
    return true;
  } catch (error) {
    clearTimeout(late);
    if (error instanceof Refused && error.isSignIn) {
      link("waiting", "waiting for the token");
      await askToken(error.status === 429 ? error.message : "");
      return attempt(work);
    }
    const silent = error instanceof Unreachable || error instanceof TypeError;
    lost(silent ? "no answer" : error.words || error.message);
    if (!silent && !(error instanceof Refused)) throw error;
    return false;
  } finally {
    clearTimeout(late);
  }
}

let begin;
const ready = new Promise((resolve) => { begin = resolve; });

async function watch() {
  let known = false;
  for (;;) {
    if (document.visibilityState === "visible") {
      if (await attempt(known ? look : refresh)) {
        known = true;
        begin();
        link("live", "live");
      } else known = false;
    }
    await new Promise((resume) => setTimeout(resume, LOOK_MS));
  }
}

// Resolves once the page is looked at.
async function seen() {
  while (document.visibilityState !== "visible") {
    await new Promise((turned) => document.addEventListener("visibilitychange", turned, { once: true }));
  }
}

// Only once a look succeeded: a stream that is asked for without the token counts as a guess.
async function hear() {
  for (;;) {
    await ready;
    await seen();
    await listen(heard, () => eventsView.opened()).catch(() => {});
    eventsView.closed();
    if (document.visibilityState === "visible") await new Promise((resume) => setTimeout(resume, 2 * LOOK_MS));
  }
}

function heard(event) {
  eventsView.add(event);
  if (event.type !== "edit") return;
  state.marks.push({ at: Date.parse(event.time) || Date.now(), revision: event.revision });
  while (state.marks.length && state.marks[0].at < Date.now() - 3600e3) state.marks.shift();
  if (event.revision > (state.revisions[0]?.revision ?? 0)) refresh().catch(() => {});
}

watch();
hear();
