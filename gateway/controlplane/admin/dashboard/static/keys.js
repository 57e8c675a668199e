// Who may ask, how much do they ask, and how are keys made, renewed and taken back? A secret is
// shown once, in a dialog that forgets it when it is closed.

import { api } from "./api.js";
import { confirmEdit } from "./dialogs.js";
import { announce, by, h, keepRoles, mark, say } from "./dom.js";
import { ago, number } from "./model.js";

const COLUMNS = ["Key", "Opens", "Expires", "Limits", "Last used", "Requests/s", "Refused", ""];
const MAX_SHOWN = 200;

export function keys(state, refresh) {
  const root = by("keys-body");
  let shape = null;
  let rows = new Map();

  const failed = (error) => announce(error.words || error.message, { bad: true });

  async function edit(name, words) {
    const answer = await confirmEdit({ ...words, tag: () => api.keyTag(name) });
    if (!answer) return;
    if (answer.key) shown(name, answer.key);
    announce(`Revision ${answer.revision}: ${words.action.toLowerCase()} ${name}`);
    await refresh();
  }

  const actions = {
    rotate: (name) => edit(name, {
      title: `Another secret for ${name}?`, action: "Rotate", edit: (options) => api.keyAction(name, "rotate", options),
      text: "The one in use stays valid until it is retired. It would change:",
    }),
    retire: (name) => edit(name, {
      title: `Only the newest secret of ${name}?`, action: "Retire", edit: (options) => api.keyAction(name, "retire", options),
      text: "Whoever still has an older one is refused. It would change:",
    }),
    revoke: (name) => edit(name, {
      title: `Revoke ${name}?`, action: "Revoke", edit: (options) => api.deleteKey(name, options),
      text: "Its next request is refused, on every worker. It would change:",
    }),
  };

  function row(name, spec) {
    const cells = { used: h("td", { "data-label": "Last used" }), rate: h("td", { class: "num", "data-label": "Requests/s" }), refused: h("td", { class: "num", "data-label": "Refused" }) };
    const over = h("span", { class: "pill", "data-tone": "bad", hidden: true }, "expired");
    rows.set(name, { ...cells, over, expires: spec.expires });
    const offered = Object.keys(actions).filter((action) => action !== "retire" || spec.hashes.length > 1);
    return h("tr", { "data-key": name },
      h("th", { scope: "row", class: "name" }, name, spec.hashes.length > 1 ? h("span", { class: "quiet more" }, `${spec.hashes.length} secrets`) : null),
      h("td", { "data-label": "Opens" }, spec.routes ? spec.routes.join(", ") : "all routes"),
      h("td", { "data-label": "Expires" }, ...expiry(spec.expires), over),
      h("td", { "data-label": "Limits" }, limits(spec.limits)),
      ...Object.values(cells),
      h("td", { class: "actions" }, ...offered.map((action) => h("button", {
        type: "button", class: "small", "data-edits": true, "aria-label": `${action} ${name}`, onclick: () => actions[action](name).catch(failed),
      }, action))));
  }

  function build(configured) {
    rows = new Map();
    const names = Object.keys(configured);
    if (!names.length) {
      root.replaceChildren(h("p", { class: "empty" }, "No keys: every route answers whoever reaches it, unless it says access: keys."));
      return;
    }
    const head = h("thead", {}, h("tr", {}, ...COLUMNS.map((words, index) =>
      h("th", { scope: "col", class: index === 5 || index === 6 ? "num" : "" }, words || h("span", { class: "unseen" }, "Actions")))));
    const body = h("tbody", {}, ...names.slice(0, MAX_SHOWN).map((name) => row(name, configured[name])));
    root.replaceChildren(keepRoles(h("table", { class: "keys" }, h("caption", { class: "unseen" }, "Keys"), head, body)));
    if (names.length > MAX_SHOWN) root.append(h("p", { class: "quiet" }, `and ${names.length - MAX_SHOWN} more: headgate keys`));
  }

  // One dialog: first what the key shall be, then its secret.

  function ask() {
    by("key-form").reset();
    say(by("key-fault"), "");
    by("key-routes").replaceChildren(...Object.keys(state.table.routes || {}).map((route) =>
      h("label", {}, h("input", { type: "checkbox", name: "route", value: route }), route)));
    by("key-first").hidden = Object.keys(state.table.keys || {}).length > 0;
    part("ask");
    by("key-dialog").showModal();
    by("key-name").focus();
  }

  const next = []; // secrets that came while another one was shown

  function shown(name, secret) {
    if (by("key-secret").textContent) {
      next.push([name, secret]);
      return;
    }
    say(by("key-of"), name);
    say(by("key-secret"), secret);
    part("shown");
    if (!by("key-dialog").open) by("key-dialog").showModal();
    by("key-copy").focus();
  }

  const forget = () => say(by("key-secret"), "");

  function part(which) {
    by("key-ask").hidden = which !== "ask";
    by("key-shown").hidden = which !== "shown";
  }

  async function create() {
    const name = by("key-name").value.trim();
    const wanted = { name };
    const routes = [...by("key-routes").querySelectorAll("input:checked")].map((box) => box.value);
    const days = Number(by("key-days").value);
    const rate = by("key-rate").value.trim();
    if (routes.length) wanted.routes = routes;
    if (days > 0) wanted.expires = new Date(Date.now() + days * 86400e3).toISOString().replace(/\.\d+Z$/, "Z");
    if (rate) wanted.limits = { requests: rate };
    const answer = await api.createKey(wanted, { reason: by("key-reason").value.trim() });
    shown(name, answer.key);
    announce(`Revision ${answer.revision}: key ${name}`);
    await refresh();
  }

  by("key-new").onclick = ask;
  by("key-cancel").onclick = () => by("key-dialog").close();
  by("key-done").onclick = () => {
    forget();
    if (next.length) shown(...next.shift());
    else by("key-dialog").close();
  };
  // Escape leaves a question, and not what is shown this once; pressed twice, a browser closes it
  // unasked.
  by("key-dialog").onclose = () => { if (by("key-secret").textContent && !by("key-dialog").open) by("key-dialog").showModal(); };
  by("key-dialog").oncancel = (event) => { if (!by("key-shown").hidden) event.preventDefault(); };
  by("key-copy").onclick = () => navigator.clipboard.writeText(by("key-secret").textContent).then(() => announce("Copied"), () => announce("Select it and copy it by hand", { bad: true }));
  by("key-form").onsubmit = (event) => {
    event.preventDefault();
    create().catch((error) => (by("key-dialog").open ? say(by("key-fault"), error.words || error.message) : failed(error)));
  };

  return {
    update() {
      const configured = state.table.keys || {};
      const next = JSON.stringify(configured);
      if (next !== shape) {
        shape = next;
        build(configured);
      }
      const several = Object.keys(state.status.gateways || {}).length > 1;
      say(by("keys-note"), several ? "used at this gateway; the others count for themselves" : "");
      for (const [name, cells] of rows) {
        const used = state.used?.[name];
        cells.over.hidden = !cells.expires || Date.parse(cells.expires) > Date.now();
        say(cells.used, used?.last_used ? ago(used.last_used) : "never");
        mark(cells.used, "title", used?.last_used);
        say(cells.rate, number(used?.requests_per_s ?? 0));
        say(cells.refused, number(used?.refused ?? 0, 0));
      }
    },
  };
}

function expiry(expires) {
  return expires ? [h("time", { datetime: expires, title: expires }, expires.slice(0, 10))] : ["never"];
}

function limits(said) {
  if (!said) return "as by default";
  const burst = said.burst ? `, burst ${said.burst}` : "";
  return [said.requests && `${said.requests}${burst}`, said.in_flight && `${said.in_flight} at once`].filter(Boolean).join(", ");
}
