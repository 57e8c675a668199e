// What is asked of a person before something happens: the token, and whether to go on.

import { keepToken, Refused } from "./api.js";
import { changes } from "./difference.js";
import { by, h, say } from "./dom.js";

let asking = null;
let asked = false;

// Resolves once a token was given; several askers share one dialog. `why`: what to say above it.
export function askToken(why) {
  asking ??= tokenDialog({ fault: why || (asked ? "That was not the token." : ""), cancellable: false });
  asked = true;
  return asking;
}

// Whether another token was given in place of the one in use.
export function changeToken() {
  asking ??= tokenDialog({ fault: "", cancellable: true });
  return asking;
}

function tokenDialog({ fault, cancellable }) {
  const dialog = by("token-dialog");
  const field = by("token");
  say(by("token-fault"), fault);
  by("token-cancel").hidden = !cancellable;
  return new Promise((done) => {
    const end = (given) => {
      if (given) keepToken(field.value.trim());
      field.value = "";
      asking = null;
      if (dialog.open) dialog.close();
      done(given);
    };
    by("token-cancel").onclick = () => end(false);
    dialog.oncancel = (event) => {
      event.preventDefault();
      if (cancellable) end(false);
    };
    by("token-form").onsubmit = (event) => {
      event.preventDefault();
      end(true);
    };
    // A browser may close it unasked, and tells of an end when the next dialog may be open.
    dialog.onclose = () => { if (!dialog.open) end(false); };
    dialog.showModal();
  });
}

// Shows in a dry run what `edit` would change and makes it when it is confirmed: the answer, or
// null. An edit under way is not called back by leaving the dialog: its answer counts, and may be a
// secret that is shown this once. `tag` gives the entity tag that binds the edit to what was shown; where somebody else was
// quicker, what it would change now is shown.
export async function confirmEdit({ title, text, action, edit, tag }) {
  let etag = null;
  async function look() {
    etag = await tag();
    const tried = await edit({ dryRun: true, etag });
    const done = Object.values(tried.serves || {}).map((words) => h("p", { class: "quiet" }, words));
    const opened = (tried.opened || []).map((words) => h("p", { class: "fault" }, `By that, ${words}`));
    by("confirm-diff").replaceChildren(...opened, changes(tried.diff || []), ...done);
  }
  await look();
  const dialog = by("confirm-dialog");
  say(by("confirm-title"), title);
  say(by("confirm-text"), text);
  say(by("confirm-apply"), action);
  say(by("confirm-fault"), "");
  by("confirm-reason").value = "";
  dialog.showModal();
  by("confirm-reason").focus();
  return new Promise((done, failed) => {
    let making = false; // Enter may be pressed twice, and two restarts are two
    let left = false;
    const closed = () => {
      left = true;
      if (!making) done(null);
    };
    dialog.addEventListener("close", closed, { once: true });
    by("confirm-cancel").onclick = () => dialog.close();
    by("confirm-form").onsubmit = async (event) => {
      event.preventDefault();
      if (making) return;
      making = true;
      try {
        const answer = await edit({ reason: by("confirm-reason").value.trim(), etag });
        dialog.removeEventListener("close", closed);
        if (!left) dialog.close();
        done(answer);
      } catch (error) {
        if (left) failed(error);
        else say(by("confirm-fault"), await fault(error, look));
      } finally {
        making = false;
        if (left) done(null);
      }
    };
  });
}

// Why an edit was not made.
async function fault(error, look) {
  if (!(error instanceof Refused)) return error.message;
  if (error.status !== 412) return error.words;
  try {
    await look();
    return "Someone else made an edit meanwhile. Look again at what would change.";
  } catch (again) {
    return again.words || again.message;
  }
}
