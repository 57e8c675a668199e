// How is the admin API asked? With fetch, relative to this page. The token lives in this module's
// memory: it is in no storage, no URL and no element once the dialog is closed. What was refused
// is not sent again: until another token is given nothing is asked.

let token = null;
let refusal = null;

export function keepToken(value) {
  token = value;
  refusal = null;
}

export class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `status ${status}`);
    this.status = status;
    this.problem = problem;
    this.faults = Array.isArray(problem.errors) ? problem.errors : [];
  }

  // Whether it is the token that is missing, wrong, or was wrong too often.
  get isSignIn() {
    return this.status === 401 || this.status === 429;
  }

  // Every fault in one sentence.
  get words() {
    const named = this.faults.map(({ pointer, detail }) => [pointer, detail].filter(Boolean).join(": "));
    const further = named.filter((text) => text && !this.message.includes(text));
    return [this.message, ...further].join("; ");
  }
}

export class Unreachable extends Error {}

// After how long an answer is asked for anew, by another connection: one that a laptop slept
// through, or whose other end is gone without a word, would be waited for by the quarter of an hour.
const READ_MS = 20_000;
const EDIT_MS = 120_000; // it waits for workers, and for other gateways
const SILENT_MS = 40_000; // of events, which say something each fifteen seconds

// A header carries bytes: each character of this text is one byte of the UTF-8 of `text`.
function bytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

function headersOf({ body, reason, etag }) {
  const headers = { Accept: "application/json" };
  if (token) headers.Authorization = `Bearer ${bytes(token)}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (reason) headers["X-Change-Reason"] = bytes(reason);
  if (etag) headers["If-Match"] = etag;
  return headers;
}

// The answer of `path`; Refused where it is none, without asking where the token was refused.
async function fetched(path, options) {
  if (refusal) throw refusal;
  const used = token;
  const response = await fetch(`admin/v1/${path}`, { cache: "no-store", credentials: "omit", ...options });
  if (response.ok) return response;
  const refused = new Refused(response.status, await response.json().catch(() => ({})));
  if (refused.isSignIn && used === token) refusal = refused;
  throw refused;
}

// The answer and its entity tag.
async function tagged(method, path, options = {}) {
  const response = await fetched(`${path}${options.dryRun ? "?dry_run=true" : ""}`, {
    method,
    headers: headersOf(options),
    body: options.body === undefined ? undefined : JSON.stringify(options.body),
    signal: AbortSignal.timeout(method === "GET" ? READ_MS : EDIT_MS),
  }).catch((error) => {
    throw error instanceof Refused ? error : new Unreachable("the gateway does not answer");
  });
  // An answer that broke off is none.
  const answer = await response.json().catch(() => { throw new Unreachable("the gateway does not answer"); });
  return { answer, etag: response.headers.get("ETag") };
}

async function ask(method, path, options) {
  return (await tagged(method, path, options)).answer;
}

const part = encodeURIComponent;

export const api = {
  table: () => ask("GET", "table"),
  status: () => ask("GET", "status"),
  series: (backends) => ask("GET", `series?${backends.map((name) => `backend=${part(name)}`).join("&")}`),
  history: (limit = 50) => ask("GET", `history?limit=${limit}`),
  weights: (route) => tagged("GET", `routes/${part(route)}/weights`),
  setWeights: (route, weights, options) => ask("PUT", `routes/${part(route)}/weights`, { ...options, body: weights }),
  mirror: (route) => ask("GET", `routes/${part(route)}/mirror`),
  rollout: (route) => tagged("GET", `routes/${part(route)}/rollout`),
  tellRollout: (route, word, options) => ask("POST", `routes/${part(route)}/rollout/${word}`, { ...options, body: {} }),
  keys: () => ask("GET", "keys"),
  keyTag: async (key) => (await tagged("GET", `keys/${part(key)}`)).etag,
  createKey: (wanted, options) => ask("POST", "keys", { ...options, body: wanted }),
  keyAction: (key, word, options) => ask("POST", `keys/${part(key)}/${word}`, { ...options, body: {} }),
  deleteKey: (key, options) => ask("DELETE", `keys/${part(key)}`, options),
  restore: (revision, options) => ask("POST", `history/${revision}/restore`, { ...options, body: {} }),
  backendTag: async (backend) => (await tagged("GET", `backends/${part(backend)}`)).etag,
  patchBackend: (backend, patch, options) => ask("PATCH", `backends/${part(backend)}`, { ...options, body: patch }),
  tellBackend: (backend, word, options) => ask("POST", `backends/${part(backend)}/${word}`, { ...options, body: {} }),
  logs: (backend) => ask("GET", `backends/${part(backend)}/logs?lines=500`),
  instance: (backend, address, action, options) =>
    ask("POST", `backends/${part(backend)}/instances/${part(address)}/${action}`, { ...options, body: {} }),
};

let heard = null;

// Calls `each` with every event until the stream ends; EventSource cannot carry a token. It begins
// with those of the last hour, and one that is opened again with what was missed. It ends when the
// page is not looked at: a browser has six connections to a gateway, and each tab would keep one.
export async function listen(each, opened) {
  const headers = { ...headersOf({}), Accept: "text/event-stream" };
  if (heard) headers["Last-Event-ID"] = heard;
  const line = new AbortController();
  let silence = 0;
  const wait = () => {
    clearTimeout(silence);
    silence = setTimeout(() => line.abort(), SILENT_MS);
  };
  const turned = () => { if (document.visibilityState !== "visible") line.abort(); };
  document.addEventListener("visibilitychange", turned);
  wait();
  try {
    const response = await fetched(heard ? "events" : "events?last=3600", { headers, signal: line.signal });
    opened();
    await read(response.body.pipeThrough(new TextDecoderStream()).getReader(), each, wait);
  } finally {
    clearTimeout(silence);
    document.removeEventListener("visibilitychange", turned);
  }
}

// Calls `each` with every event of `reader`, and `wait` with each piece that comes, until it ends.
async function read(reader, each, wait) {
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    wait();
    text += value.replaceAll("\r", "");
    const blocks = text.split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const field = (name) => block.split("\n").filter((line) => line.startsWith(`${name}:`)).map((line) => line.slice(name.length + 1).trim());
      const data = field("data");
      if (data.length) each(JSON.parse(data.join("\n")));
      heard = field("id").pop() ?? heard;
    }
  }
}
