"use strict";
// Shows the merged document. Everything is set as text, never as markup.

const METHODS = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];
const DEEP = 6;
const DOCUMENT = "/-/openapi.json";

const made = (name, text, ...children) => {
  const element = document.createElement(name);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
};

const classed = (name, element) => {
  element.className = name;
  return element;
};

let api = {};

const resolve = (node, depth = 0) => {
  if (!node || typeof node.$ref !== "string" || depth > 20) return node ?? {};
  const parts = node.$ref.replace(/^#\//, "").split("/").map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  let found = api;
  for (const part of parts) found = Object.hasOwn(found ?? {}, part) ? found[part] : undefined;
  return resolve(found, depth + 1);
};

const typeOf = (schema) => {
  const facts = [];
  const type = Array.isArray(schema.type) ? schema.type.join(" or ") : schema.type;
  if (type) facts.push(schema.format ? `${type} (${schema.format})` : type);
  if (schema.enum) facts.push(`one of ${schema.enum.map((value) => JSON.stringify(value)).join(", ")}`);
  if ("const" in schema) facts.push(JSON.stringify(schema.const));
  const least = schema.minimum ?? schema.exclusiveMinimum ?? schema.minItems ?? schema.minLength;
  const most = schema.maximum ?? schema.exclusiveMaximum ?? schema.maxItems ?? schema.maxLength;
  if (least !== undefined || most !== undefined) facts.push(`${least ?? ""} … ${most ?? ""}`);
  return facts.join(", ");
};

// A schema as a list that people read; what refers to itself stops after some levels.
const shape = (node, depth = 0) => {
  const schema = resolve(node);
  const about = made("span", typeOf(schema) || (depth ? "anything" : ""));
  const list = made("ul");
  const add = (label, needed, below) => {
    const item = made("li", "", needed === null ? made("span", label) : made("code", label), " ");
    if (needed) item.firstChild.className = "needed";
    item.append(shape(below, depth + 1));
    list.append(item);
  };
  if (depth < DEEP) {
    const needed = new Set(schema.required ?? []);
    for (const [name, below] of Object.entries(schema.properties ?? {})) add(name, needed.has(name), below);
    if (schema.items && typeof schema.items === "object") add("each", null, schema.items);
    for (const word of ["anyOf", "oneOf", "allOf"]) {
      for (const below of schema[word] ?? []) add({ anyOf: "either", oneOf: "one of", allOf: "and" }[word], null, below);
    }
  }
  const all = made("span", "", about);
  if (schema.description) all.append(classed("quiet", made("span", ` ${schema.description}`)));
  if (list.childElementCount) all.append(list);
  return all;
};

// A value that the schema allows, to begin with.
const sample = (node, depth = 0) => {
  const schema = resolve(node);
  if (schema.example !== undefined) return schema.example;
  if (schema.examples?.length) return schema.examples[0];
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  if ("const" in schema) return schema.const;
  const first = (schema.anyOf ?? schema.oneOf ?? schema.allOf)?.[0];
  if (first && depth < DEEP) return sample(first, depth + 1);
  const type = Array.isArray(schema.type) ? schema.type[0] : schema.type;
  if (type === "array") {
    const count = Math.min(schema.minItems ?? 1, 64);
    return depth < DEEP ? Array.from({ length: count }, () => sample(schema.items, depth + 1)) : [];
  }
  if (type === "object" || schema.properties) {
    const entries = Object.entries(schema.properties ?? {}).map(([name, below]) => [name, depth < DEEP ? sample(below, depth + 1) : null]);
    return Object.fromEntries(entries);
  }
  return { string: "text", integer: schema.minimum ?? 0, number: schema.minimum ?? 0, boolean: true }[type] ?? null;
};

const bodyExample = (media) => {
  if (media.example !== undefined) return media.example;
  const named = Object.values(media.examples ?? {})[0];
  return resolve(named)?.value ?? sample(media.schema);
};

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const curl = (method, path, type, body) => {
  const words = [`curl -X ${method.toUpperCase()} ${quoted(location.origin + path)}`];
  if (body !== undefined) words.push(`-H ${quoted(`Content-Type: ${type}`)}`, `-d ${quoted(body)}`);
  return words.join(" \\\n  ");
};

// A form that asks the gateway itself, and shows which instance answered.
const trial = (method, path, type, body) => {
  const field = made("textarea");
  field.value = body ?? "";
  field.spellcheck = false;
  field.rows = Math.min(16, field.value.split("\n").length + 1);
  field.setAttribute("aria-label", `Body of ${method} ${path}`);
  const button = made("button", "Send");
  const status = made("span");
  status.setAttribute("role", "status");
  const answer = made("pre");
  answer.hidden = true;
  button.addEventListener("click", async () => {
    status.textContent = "…";
    const began = performance.now();
    try {
      const headers = body === undefined ? {} : { "Content-Type": type };
      const response = await fetch(path, { method: method.toUpperCase(), headers, body: body === undefined ? undefined : field.value });
      const text = await response.text();
      const by = response.headers.get("X-Headgate-Backend");
      status.textContent = `${response.status}${by ? ` by ${by}` : ""} in ${Math.round(performance.now() - began)} ms`;
      answer.textContent = pretty(text).slice(0, 100_000);
    } catch (error) {
      status.textContent = "no answer";
      answer.textContent = String(error);
    }
    answer.hidden = false;
  });
  const parts = [made("h3", "Try it"), ...(body === undefined ? [] : [field]), classed("send", made("div", "", button, status)), answer];
  return made("div", "", ...parts);
};

// JSON as people write it: what holds no further structure stays on one line.
const written = (value, indent = "") => {
  const below = indent + "  ";
  const plain = (each) => each === null || typeof each !== "object";
  if (plain(value)) return JSON.stringify(value);
  const flat = Object.values(value).every(plain) && JSON.stringify(value).length < 100;
  const gap = flat ? " " : `\n${below}`;
  const parts = Array.isArray(value)
    ? value.map((each) => written(each, below))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${written(each, below)}`);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  if (!parts.length) return open + close;
  const edge = flat ? "" : gap;
  return `${open}${edge}${parts.join(`,${gap}`)}${flat ? "" : `\n${indent}`}${close}`;
};

const pretty = (text) => {
  try {
    return written(JSON.parse(text));
  } catch {
    return text;
  }
};

// Text in which backticks set code apart.
const prose = (text) => text.split("`").map((part, index) => (index % 2 ? made("code", part) : part));

const operation = (path, method, spec) => {
  const details = made("details", "", made("summary", "", made("b", method.toUpperCase()), made("code", path), made("span", spec.summary ?? "")));
  if (spec.description) details.append(made("p", spec.description));
  for (const parameter of spec.parameters ?? []) {
    const { name, in: place, required, schema, description } = resolve(parameter);
    details.append(made("p", "", made("code", name), ` in ${place}${required ? ", needed" : ""} ${typeOf(resolve(schema))} ${description ?? ""}`));
  }
  const [type, media] = Object.entries(resolve(spec.requestBody).content ?? {})[0] ?? [];
  const body = media && (type.includes("json") ? written(bodyExample(media)) : "");
  if (media) details.append(made("h3", `Body, ${type}`), classed("schema", made("div", "", shape(media.schema))));
  const errors = made("details", "", made("summary", "Errors"));
  for (const [status, given] of Object.entries(spec.responses ?? {})) {
    const answer = resolve(given);
    const [kind, content] = Object.entries(answer.content ?? {})[0] ?? ["", null];
    const place = /^[45d]/.test(status) ? errors : details;
    place.append(made("h3", `${status}: ${answer.description ?? ""}${kind ? `, ${kind}` : ""}`));
    if (content?.schema) place.append(classed("schema", made("div", "", shape(content.schema))));
  }
  if (errors.childElementCount > 1) details.append(errors);
  details.append(made("h3", "With curl"), made("pre", curl(method, path, type, body && JSON.stringify(JSON.parse(body || "null")))));
  if (!path.includes("{")) details.append(trial(method, path, type, body));
  return details;
};

const show = () => {
  const sections = new Map();
  for (const { name, description } of api.tags ?? []) {
    sections.set(name, made("section", "", made("h2", name), classed("about", made("p", "", ...prose(description ?? "")))));
  }
  for (const [path, item] of Object.entries(api.paths ?? {})) {
    for (const method of METHODS.filter((each) => item[each])) {
      for (const tag of item[method].tags ?? []) sections.get(tag)?.append(operation(path, method, item[method]));
    }
  }
  for (const section of sections.values()) {
    if (!section.querySelector("details")) section.append(made("p", "None of its instances describes it."));
  }
  const about = document.getElementById("about");
  about.replaceChildren(`${api.info?.description ?? ""} `, Object.assign(made("a", DOCUMENT), { href: DOCUMENT }));
  const main = document.getElementById("routes");
  main.replaceChildren(...sections.values());
  main.removeAttribute("aria-busy");
};

fetch(DOCUMENT).then((response) => response.json()).then((found) => {
  api = found;
  show();
}).catch(() => {
  document.getElementById("about").textContent = "The description cannot be read just now.";
});
