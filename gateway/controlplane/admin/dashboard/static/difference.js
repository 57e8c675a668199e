// How is a difference shown? One line per change, the first few and the rest folded away.

import { h } from "./dom.js";
import { changeWords } from "./model.js";

const SHOWN = 4;

export function changes(diff) {
  const items = diff.map((change) => {
    const { where, what, op } = changeWords(change);
    return h("li", { "data-op": op }, h("span", { class: "where" }, where), ` ${what}`);
  });
  const list = (some) => h("ul", { class: "diff" }, ...some);
  if (items.length <= SHOWN) return list(items);
  const more = h("details", {}, h("summary", {}, `${items.length - SHOWN} more`), list(items.slice(SHOWN)));
  return h("div", {}, list(items.slice(0, SHOWN)), more);
}
