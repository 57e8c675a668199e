// Shows the OpenAPI document as one readable page. Everything is set as text, never as markup.

const made = (name, text, ...children) => {
  const element = document.createElement(name);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
};

const named = (className, element) => {
  element.className = className;
  return element;
};

const table = (heads, rows) =>
  made("table", "",
    made("thead", "", made("tr", "", ...heads.map((head) => made("th", head)))),
    made("tbody", "", ...rows.map((row) =>
      made("tr", "", ...row.map((cell) => made("td", cell))))));

const schemaName = (schema) => (schema?.$ref ?? "").split("/").pop() || JSON.stringify(schema ?? {});

const curl = (method, path, body) => {
  const parts = [`curl -X ${method} ${location.origin}${path}`];
  if (body !== undefined) {
    parts.push("-H 'Content-Type: application/json'", `-d '${JSON.stringify(body)}'`);
  }
  return parts.join(" \\\n  ");
};

const operation = (path, method, spec, resolve) => {
  const summary = made("summary", "",
    named("method", made("code", method.toUpperCase())), made("code", path),
    named("what", made("span", spec.summary ?? "")));
  const details = made("details", "", summary);
  details.id = spec.operationId;
  const bodies = Object.entries(spec.requestBody?.content ?? {});
  const example = bodies.map(([, body]) => body.example).find((value) => value !== undefined);
  details.append(made("pre", curl(method.toUpperCase(), path, example)));
  if (spec.parameters) {
    details.append(table(["parameter", "in", "what"], spec.parameters.map((each) =>
      [each.name, each.in, each.description ?? JSON.stringify(each.schema)])));
  }
  if (bodies.length) {
    details.append(table(["body", "schema"], bodies.map(([type, body]) => [type, schemaName(body.schema)])));
  }
  details.append(table(["status", "answer"], Object.entries(spec.responses ?? {}).map(([status, answer]) => {
    const found = resolve(answer);
    const [type, content] = Object.entries(found.content ?? {})[0] ?? ["", {}];
    return [status, `${found.description ?? ""} ${type} ${schemaName(content.schema)}`];
  })));
  return details;
};

const show = (api) => {
  const main = document.getElementById("operations");
  const sections = new Map();
  const resolve = (answer) =>
    answer.$ref ? api.components?.responses?.[answer.$ref.split("/").pop()] ?? {} : answer;
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, spec] of Object.entries(methods)) {
      const tag = spec.tags?.[0] ?? "";
      if (!sections.has(tag)) sections.set(tag, made("section", "", made("h2", tag)));
      sections.get(tag).append(operation(path, method, spec, resolve));
    }
  }
  const schemas = made("section", "", made("h2", "schemas"));
  for (const [name, schema] of Object.entries(api.components?.schemas ?? {})) {
    schemas.append(made("details", "", made("summary", "", made("code", name)),
      made("pre", JSON.stringify(schema, null, 2))));
  }
  main.replaceChildren(...sections.values(), schemas);
  main.removeAttribute("aria-busy");
};

const response = await fetch("/openapi.json");
show(await response.json());
