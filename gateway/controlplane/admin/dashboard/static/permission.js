// May whoever looks at this page also edit? Controls that edit carry `data-edits`; for a viewer
// they are switched off and say why. The gateway refuses a viewer whatever the page shows.

import { changeToken } from "./dialogs.js";
import { by, mark } from "./dom.js";

const WHY = "This token may look and not edit.";

export function permission(state, refresh) {
  by("upgrade").addEventListener("click", async () => {
    if (await changeToken()) await refresh().catch(() => {});
  });

  return {
    update() {
      const viewer = state.status.role === "viewer";
      by("viewer").hidden = !viewer;
      by("hint").hidden = viewer;
      for (const control of document.querySelectorAll("[data-edits]")) {
        if (control.disabled === viewer) continue;
        control.disabled = viewer;
        mark(control, "title", viewer ? WHY : null);
        mark(control, "aria-describedby", viewer ? "viewer-why" : null);
      }
    },
  };
}
