// What do the answers of the admin API mean? Pure functions of values; nothing here touches the
// page or asks the gateway.

export const SPANS = { minutes: 300, hour: 3600 }; // seconds that the charts show
export const MAX_WEIGHT = 1_000_000;

const PALETTE = 8;

// Backend → a stable number of its colour, in the order of the table.
export function colours(table) {
  return new Map(Object.keys(table.backends || {}).map((name, index) => [name, index % PALETTE]));
}

export function shares(weights) {
  const total = Object.values(weights).reduce((sum, weight) => sum + weight, 0);
  return Object.fromEntries(Object.entries(weights).map(([name, weight]) => [name, total ? weight / total : 0]));
}

// The weights after `name` became `weight` while the sum stays: the others give or take in
// proportion to what they had, whole numbers by the largest remainder.
export function keepSum(weights, name, weight) {
  const others = Object.keys(weights).filter((other) => other !== name);
  const sum = Object.values(weights).reduce((total, one) => total + one, 0);
  if (!others.length || sum === 0) return { ...weights, [name]: weight };
  const set = Math.min(weight, sum);
  const had = sum - weights[name];
  const exact = others.map((other) => (had ? weights[other] / had : 1 / others.length) * (sum - set));
  const whole = exact.map(Math.floor);
  let left = sum - set - whole.reduce((total, one) => total + one, 0);
  const order = exact.map((value, index) => [value - whole[index], index]).sort((a, b) => b[0] - a[0]);
  for (const [, index] of order) {
    if (left <= 0) break;
    whole[index] += 1;
    left -= 1;
  }
  return { ...weights, [name]: set, ...Object.fromEntries(others.map((other, index) => [other, whole[index]])) };
}

export const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

export function matched(match) {
  if (typeof match === "string" || !match) return match || "/";
  const parts = [match.exact ? `= ${match.exact}` : match.path || "/"];
  if (match.methods?.length) parts.unshift(match.methods.join(" "));
  if (match.hosts?.length) parts.push(`on ${match.hosts.join(", ")}`);
  for (const [name, value] of Object.entries({ ...match.headers, ...match.json })) parts.push(`${name}=${value}`);
  return parts.join("  ");
}

export const ANSWERS = ["1xx", "2xx", "3xx", "4xx", "499", "5xx", "refused"];

const TONES = { "4xx": "warn", 499: "bad", "5xx": "bad", refused: "bad" };

// The kinds of answers that there were, with how many of each a second and what that means.
export function answers(rates) {
  const counts = rates.answers_per_s || {};
  return ANSWERS.filter((kind) => counts[kind] > 0).map((kind) => ({ kind, rate: counts[kind], tone: TONES[kind] || null }));
}

// Requests a second that failed, were refused or were given up by their clients.
function wrong(backend) {
  const counts = backend.answers_per_s;
  return counts ? (counts["499"] || 0) + (counts["5xx"] || 0) + (counts.refused || 0) : backend.errors_per_s ?? 0;
}

const POINTS = ["p50", "p95", "p99"];

// What was seen of one backend: each second by this page, for five minutes, and for an hour by the
// gateway, in its steps.
export class Series {
  constructor() {
    this.seen = [];
    this.kept = [];
  }

  add(at, rates) {
    const latency = rates.latency_ms || {};
    this.seen.push({
      at, every: 1000, requests: rates.requests_per_s ?? 0, errors: wrong(rates),
      ...Object.fromEntries(POINTS.map((point) => [point, latency[point] ?? null])),
    });
    while (this.seen.length && this.seen[0].at < at - SPANS.minutes * 1000) this.seen.shift();
  }

  // Takes in what the gateway kept: `rates` in steps of `step_s` that ended at `until`.
  keep(until, step_s, rates) {
    const bad = ["499", "5xx", "refused"].map((kind) => rates.answers_per_s[kind]).filter(Boolean);
    this.kept = until.map((at, index) => ({
      at: at * 1000, every: step_s * 1000, requests: rates.requests_per_s[index],
      errors: bad.reduce((sum, row) => sum + row[index], 0),
      ...Object.fromEntries(POINTS.map((point) => [point, rates.latency_ms[point][index]])),
    }));
  }

  // The points of the last `span` seconds: what was seen, and before it and in its gaps what was
  // kept; for more than the page keeps itself the other way round.
  points(now, span) {
    const since = now - span * 1000;
    const kept = this.kept.filter(({ at }) => at >= since);
    if (span > SPANS.minutes) {
      const until = kept.at(-1)?.at ?? 0;
      return [...kept, ...this.seen.filter(({ at }) => at > until)];
    }
    const had = new Set(this.seen.map(({ at }) => Math.round(at / 10_000)));
    const first = this.seen[0]?.at ?? Infinity;
    const gaps = kept.filter(({ at }) => at < first || !had.has(Math.round(at / 10_000)));
    return [...gaps, ...this.seen].sort((one, other) => one.at - other.at);
  }
}

// One word for an instance: what was decided about it comes before what was observed.
export function health(instance) {
  if (instance.state) return { word: instance.state, tone: "quiet" };
  if (instance.ejected_s) return { word: "ejected", tone: "bad", more: `${Math.ceil(instance.ejected_s)} s left` };
  const word = instance.health || "starting";
  return { word, tone: { up: "good", down: "bad", failing: "warn" }[word] || "warn" };
}

export function totals(status) {
  const backends = Object.values(status.backends || {});
  const add = (read) => backends.reduce((sum, backend) => sum + (read(backend) || 0), 0);
  const instances = backends.flatMap((backend) => Object.values(backend.instances || {}));
  const p99 = backends.map((backend) => backend.latency_ms?.p99).filter((value) => value !== null && value !== undefined);
  return {
    requests: add((backend) => backend.requests_per_s),
    ...Object.fromEntries(ANSWERS.map((kind) => [kind, add((backend) => backend.answers_per_s?.[kind])])),
    inFlight: add((backend) => backend.in_flight),
    queued: add((backend) => backend.queue_depth),
    p99: p99.length ? Math.max(...p99) : null,
    up: instances.filter((one) => health(one).tone === "good").length,
    instances: instances.length,
  };
}

// A number in at most four characters that matter.
export function number(value, digits) {
  if (value === null || value === undefined) return "–";
  const places = digits ?? (value === 0 ? 0 : value < 10 ? 2 : value < 100 ? 1 : 0);
  return value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
}

// One decimal, and two where one would make nothing or everything of it.
export const percent = (share) => {
  const rough = (100 * share).toFixed(1);
  const hides = share > 0 && share < 1 && (rough === "0.0" || rough === "100.0");
  return `${hides ? (100 * share).toFixed(2) : rough} %`;
};

// Where and what: a weight by its route and backend, anything else by its whole path.
export function changeWords(change) {
  const path = change.pointer.slice(1).split("/").map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  const weight = path[0] === "routes" && path[2] === "split" && path.length === 4;
  const where = weight ? `${path[1]}: ${path[3]}` : path.join(" › ");
  const sides = ["before", "after"].filter((side) => side in change).map((side) => short(change[side]));
  return { where, what: sides.join(" → "), op: change.op };
}

export function short(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > 120 ? `${text.slice(0, 119)}…` : text;
}

export function ago(iso, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(iso)) / 1000);
  if (Number.isNaN(seconds)) return "";
  if (seconds < 60) return "just now";
  for (const [size, word] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${word} ago`;
  }
  return "";
}
