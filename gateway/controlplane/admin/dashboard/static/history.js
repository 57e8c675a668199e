// Which edits were made, by whom and why, and how does one go back?

import { api } from "./api.js";
import { confirmEdit } from "./dialogs.js";
import { changes } from "./difference.js";
import { announce, by, h, say } from "./dom.js";
import { ago } from "./model.js";

export function history(state, refresh) {
  const root = by("history-body");

  async function back(revision) {
    const answer = await confirmEdit({
      title: `Back to revision ${revision}?`,
      text: "This makes a new revision; the history stays. It would change:",
      action: "Restore",
      edit: (options) => api.restore(revision, options),
      tag: async () => `"${(await api.status()).revision}"`,
    });
    if (!answer) return;
    announce(`Revision ${answer.revision}: as revision ${revision} was`);
    await refresh();
  }

  function entry(edit) {
    const current = edit.revision === state.table.revision;
    const button = h("button", {
      type: "button", class: "small", "data-edits": true, "aria-label": `Restore revision ${edit.revision}`,
      onclick: () => back(edit.revision).catch((error) => announce(error.words || error.message, { bad: true })),
    }, "restore");
    return h("li", { value: edit.revision, "data-revision": edit.revision },
      h("div", { class: "line" },
        h("b", {}, String(edit.revision)),
        h("span", { class: "why" }, edit.why || (edit.source === "file" ? "from the file" : "no reason given")),
        h("time", { datetime: edit.time, title: edit.time, class: "quiet" }, ago(edit.time)),
        current ? h("span", { class: "pill", "data-tone": "good" }, "current") : button),
      h("p", { class: "quiet who" }, edit.who),
      changes(edit.diff || []));
  }

  return {
    update() {
      const held = root.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.revision : null;
      root.replaceChildren(...state.revisions.map(entry));
      if (held) root.querySelector(`[data-revision="${held}"] button`)?.focus();
    },
    age() {
      for (const time of root.querySelectorAll("time")) say(time, ago(time.dateTime));
    },
  };
}
