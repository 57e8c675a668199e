// How are elements made and changed? As text only: nothing here parses markup, so a name can
// never become an element. Writes that change nothing are left out, which keeps screen readers
// and layout quiet while numbers tick.

export const by = (id) => document.getElementById(id);

export function h(tag, properties = {}, ...children) {
  const element = tag === "svg" || svgTags.has(tag)
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "vars") vars(element, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const svgTags = new Set(["path", "line", "g", "text", "circle", "rect"]);

export function vars(element, values) {
  for (const [name, value] of Object.entries(values)) element.style.setProperty(name, value);
}

export function say(element, text) {
  const wanted = String(text);
  if (element.textContent !== wanted) element.textContent = wanted;
}

export function mark(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

const ROLES = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };

// Says what a table's parts are: on a phone they are laid out as blocks, and browsers then forget.
export function keepRoles(table) {
  for (const part of [table, ...table.querySelectorAll("thead, tbody, tr, th, td")]) {
    const scope = part.getAttribute("scope");
    const header = scope === "col" ? "columnheader" : "rowheader";
    mark(part, "role", part.tagName === "TH" ? header : ROLES[part.tagName]);
  }
  return table;
}

let toastTimer = 0;

// Told to the eye for a while and to a screen reader once.
export function announce(text, { bad = false } = {}) {
  say(by("announcer"), text);
  const toast = by("toast");
  say(toast, text);
  toast.classList.toggle("bad", bad);
  toast.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { toast.hidden = true; }, bad ? 9000 : 5000);
}
