/* The dashboard: follows /v1/events, and draws what comes.
   May touch: this page, the gateway that served it, this tab's sessionStorage.
   Must never: make markup of a text. All text is set by textContent, and no cookie is used. */
"use strict";

const MAX_POINTS = 900; // as the gateway keeps
const MAX_RESULTS = 100; // rows
const SILENCE = 12000; // ms without a byte, after which what is shown is stale
const GAP = 5; // seconds between two looks, after which a chart's line is broken
const QUEUES = ["jobs", "quarantine", "quarantine.solo", "undelivered", "delay", "dead", "results", "batches"];
const STATES = {
  asking: "asking the fleet",
  live: "live",
  stale: "stale: the gateway does not answer",
  away: "the fleet cannot be asked",
};

const find = (id) => document.getElementById(id);
let token = sessionStorage.getItem("scraperd-token") || "";
let me = { role: "", holder: "" };
let lastId = "";
let fleet = null;

/* Texts. */

function span(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} days`;
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (bytes < 1024) return `${unit === "B" ? bytes : bytes.toFixed(1)} ${unit}`;
    bytes /= 1024;
  }
  return `${bytes.toFixed(1)} TiB`;
}

function ago(seconds) {
  if (seconds === null) return "–";
  return seconds < 1 ? "just now" : `${seconds < 60 ? `${seconds} s` : span(seconds)} ago`;
}

const rate = (value) => (value >= 100 ? Math.round(value).toString() : value.toFixed(1));
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString();

function limits(shares) {
  const found = Object.entries(shares).filter(([, share]) => share >= 0.05);
  return found.map(([name, share]) => `${name} ${Math.round(share * 100)} %`).join(", ") || "nothing";
}

/* Elements. */

function make(name, text, ...classes) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (classes.length) made.classList.add(...classes);
  return made;
}

function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

function warn(id, fault) {
  find(id).hidden = !fault;
  say(find(id), fault);
}

/* Fills a table's body row by row, and changes only the cells that differ: a selection or the place
   of a screen reader survives. A cell is a text, or [text, classes]. */
function fill(id, rows) {
  const body = find(id);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  rows.forEach((cells, index) => {
    const row = body.rows[index] || body.insertRow();
    cells.forEach((cell, place) => {
      const [text, classes] = Array.isArray(cell) ? cell : [cell, ""];
      const there = row.cells[place] || row.insertCell();
      say(there, text);
      if (there.className !== classes) there.className = classes;
    });
  });
  const none = find(id.replace("rows-", "none-"));
  if (none) none.hidden = rows.length > 0;
  body.closest(".table").hidden = rows.length === 0;
}

const number = (value) => [String(value), "n"];

/* Requests. */

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

async function ask(path, options = {}) {
  const headers = { ...(options.headers || {}) };
  if (token) headers.Authorization = `Bearer ${token}`;
  const answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  if (answer.ok) return answer;
  let detail = `${answer.status}`;
  try {
    detail = (await answer.json()).detail || detail;
  } catch {
    /* no problem body: the status says it */
  }
  throw new Refused(answer.status, detail);
}

const get = async (path) => (await ask(path)).json();

async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await ask(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/* Who looks. */

function askToken(fault) {
  const dialog = find("login");
  warn("login-fault", fault);
  if (!dialog.open) dialog.showModal();
  return new Promise((done) => {
    find("login-form").onsubmit = (event) => {
      event.preventDefault();
      token = find("login-token").value.trim();
      find("login-token").value = "";
      dialog.close();
      done();
    };
  });
}

async function signIn() {
  for (;;) {
    try {
      if (!token && (await get("/dashboard/needs.json")).token) await askToken("");
      me = await get("/v1/me");
      break;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        await askToken(token ? "The gateway does not know this token." : "");
      } else if (error instanceof Refused && error.status === 403) {
        await askToken(error.message);
      } else {
        state("stale");
        await pause(1000);
      }
    }
  }
  if (token) sessionStorage.setItem("scraperd-token", token);
  find("leave").hidden = !token;
  say(find("prefix"), `${me.version}, prefix ${me.prefix}`);
  say(find("who"), me.holder ? `${me.holder} (${me.role})` : "");
  document.title = `scraperd ${me.prefix}`;
  offer("batches", me.batches);
  offer("callbacks", me.dead.some((it) => it.queue === "callbacks.dead"));
  for (const about of me.dead) {
    panels[about.queue] ??= new Panel(about);
    panels[about.queue].buttons();
  }
}

/* Shows a part of the page, and the link to it, where the gateway has it. */
function offer(id, there) {
  find(id).hidden = !there;
  document.querySelector(`nav a[href="#${id}"]`).hidden = !there;
}

find("leave").onclick = () => {
  sessionStorage.removeItem("scraperd-token");
  location.reload();
};
find("login").oncancel = (event) => event.preventDefault();

/* The stream of events. */

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function state(name) {
  if (document.body.dataset.state === name) return;
  document.body.dataset.state = name;
  say(find("state-text"), STATES[name]);
}

async function follow() {
  let wait = 500;
  for (;;) {
    const stop = new AbortController();
    let watch = 0;
    const heard = () => {
      clearTimeout(watch);
      watch = setTimeout(() => stop.abort(), SILENCE);
    };
    try {
      heard();
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const answer = await ask("/v1/events", { headers, signal: stop.signal });
      for await (const event of events(answer.body, heard)) {
        wait = 500;
        take(event);
      }
    } catch (error) {
      if (error instanceof Refused && error.status === 401) await signIn();
      else if (error instanceof Refused) warn("fault", error.message);
    } finally {
      clearTimeout(watch);
    }
    state("stale");
    await pause(wait);
    wait = Math.min(wait * 2, 5000);
  }
}

/* Server-sent events of a body (WHATWG HTML, section 9.2), as far as the gateway sends them. */
async function* events(body, heard) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const found = { id: "", data: "" };
      for (const line of part.split("\n")) {
        const at = line.indexOf(": ");
        if (at > 0 && line.slice(0, at) in found) found[line.slice(0, at)] = line.slice(at + 2);
      }
      if (found.data) yield found;
    }
  }
}

function take(event) {
  const told = JSON.parse(event.data);
  lastId = event.id;
  fleet = told.fleet;
  const fault = told.faults.fleet || "";
  warn("fault", fault);
  warn("fault-results", told.faults.results || "");
  state(fault ? "away" : fleet ? "live" : "asking");
  told.points.forEach(addPoint);
  if (fleet) showFleet();
  if (told.batches.length) showBatches(told.batches.at(-1));
  if (told.points.length) draw();
  [...told.results, ...told.failures].sort((a, b) => a.at - b.at).forEach(addResult);
  told.actions.forEach(addAction);
}

/* The fleet. */

function showFleet() {
  const last = points.at(-1) || [];
  say(find("tile-pages"), rate(last[1] || 0));
  say(find("tile-failed"), rate(last[2] || 0));
  say(find("tile-flight"), String(last[3] || 0));
  say(find("tile-fetches"), `${last[4] || 0} / ${last[5] || 0}`);
  say(find("tile-processes"), fleet.silent ? `${fleet.answer}, ${fleet.silent} silent` : String(fleet.answer));
  say(find("tile-limits"), limits(shares()));
  fill("rows-processes", fleet.processes.map(processRow));
  fill("rows-queues", QUEUES.filter((name) => name in fleet.queues).map(queueRow));
  fill("rows-kinds", Object.entries(fleet.kinds).map(([kind, count]) => [kind, number(count)]));
  fill("rows-steps", Object.entries(fleet.steps).map(([name, [p50, p99]]) => [name, number(span(p50)), number(span(p99))]));
  fill("rows-hosts", fleet.hosts.map(hostRow));
  for (const queue of ["callbacks", "callbacks.delay", "callbacks.dead"]) {
    const count = fleet.queues[queue];
    say(find(`tile-${queue.replace(".", "-")}`), count ? String(count[0]) : count === null ? "missing" : "–");
  }
  remarks();
}

/* Without a daemon that tallies, nothing is known. */
function showBatches(batches) {
  say(find("none-batches"), batches ? "No batch is known." : "No daemon tallies batches now.");
  fill("rows-batches", (batches || []).map(batchRow));
}

function batchRow(it) {
  const kinds = Object.entries(it.kinds).map(([kind, count]) => `${kind} ${count}`);
  const state = it.state === "expired" ? "bad" : it.state === "done" ? "good" : "";
  return [
    [it.id, "name"], [it.state, state], number(`${it.counted} of ${it.size}`), [kinds.join(", ") || "–", "text"],
    number(it.age ? span(it.age) : "< 1 s"), number(ago(it.news)), [it.reason || "–", "text"],
  ];
}

/* What limits the fleet: the mean of its processes. */
function shares() {
  const found = {};
  for (const it of fleet.processes) {
    for (const [name, share] of Object.entries(it.limits)) {
      found[name] = (found[name] || 0) + share / fleet.processes.length;
    }
  }
  return Object.fromEntries(Object.entries(found).sort((a, b) => b[1] - a[1]));
}

function processRow(it) {
  const well = it.state === "consuming" || it.state === "draining";
  return [
    `${it.name} (${it.version})`, [it.state, well ? "" : "bad"], number(span(it.up)), number(rate(it.pages)),
    number(rate(it.failed)), number(it.in_flight), number(`${it.fetches}/${it.fetches_limit}`), number(span(it.p50)),
    number(span(it.p99)), number(`${size(it.memory)} of ${size(it.memory_limit)}`), limits(it.limits),
  ];
}

function queueRow(name) {
  const count = fleet.queues[name];
  const held = name === "jobs" ? fleet.unacked : "–";
  if (count === null) return [name, ["missing", "n bad"], number("–"), number("–")];
  return [name, number(count[0]), number(held), number(name === "delay" ? "–" : count[1])];
}

function hostRow(it) {
  return [
    it.host, number(it.waiting), number(`${it.active}/${it.permits}`), number(it.until ? `in ${span(it.until)}` : "now"),
    number(it.penalty ? span(it.penalty) : "–"), it.why, it.process,
  ];
}

function remarks() {
  const found = [];
  if (fleet.silent) found.push(`${fleet.silent} silent: the broker counts more consumers than processes answer`);
  for (const it of fleet.processes) {
    if (it.why && it.state !== "draining") found.push(`${it.name}: ${it.why}`);
    if (it.reload) found.push(`${it.name}: ${it.reload_failed ? "RELOAD FAILED: " : ""}${it.reload}`);
  }
  const list = find("remarks");
  if (JSON.stringify([...list.children].map((it) => it.textContent)) !== JSON.stringify(found)) {
    list.replaceChildren(...found.map((text) => make("li", text)));
  }
}

/* Charts. */

const points = []; // as shape.py makes them: time, pages, failed, jobs, fetches, allowed, p50, p99
const CHARTS = [
  ["chart-pages", [1, 2], ["one", "two"]],
  ["chart-flight", [3, 4, 5], ["one", "four", "three"]],
  ["chart-latency", [6, 7], ["one", "four"]],
];
let charts = [];

function addPoint(point) {
  const last = points.at(-1);
  if (last && point[0] <= last[0]) return; // seen already
  if (last && point[0] - last[0] > GAP) points.push([last[0] + 1, ...Array(7).fill(null)]);
  points.push(point);
  while (points.length > MAX_POINTS) points.shift();
}

const HOUR_AND_MINUTE = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };

/* The texts below an axis of time: with seconds where minutes would repeat. */
function times(_, found, axis, space, step) {
  const form = step < 60 ? { ...HOUR_AND_MINUTE, second: "2-digit" } : HOUR_AND_MINUTE;
  return found.map((at) => new Date(at * 1000).toLocaleTimeString([], form));
}

function options(target, colors) {
  const css = getComputedStyle(document.documentElement);
  const color = (name) => css.getPropertyValue(`--${name}`).trim();
  const axis = { stroke: color("soft"), grid: { stroke: color("grid"), width: 1 }, ticks: { stroke: color("grid"), width: 1 }, font: "12px sans-serif" };
  const series = colors.map((name) => ({
    stroke: color(name), width: name === "three" ? 1 : 2, points: { show: false },
    dash: name === "three" ? [4, 4] : undefined,
  }));
  return {
    width: Math.max(200, target.clientWidth), height: 170, legend: { show: false }, cursor: { show: false },
    scales: { y: { range: (_, low, high) => [0, Math.max(high * 1.1, 0.001) || 1] } },
    axes: [{ ...axis, size: 30, space: 64, values: times }, { ...axis, size: 56 }], series: [{}, ...series],
  };
}

const columns = (places) => [0, ...places].map((place) => points.map((point) => point[place]));

function draw() {
  for (const [chart, places] of charts) chart.setData(columns(places));
}

function build() {
  charts.forEach(([chart]) => chart.destroy());
  charts = CHARTS.map(([id, places, colors]) => {
    const target = find(id);
    return [new uPlot(options(target, colors), columns(places), target), places];
  });
}

function resize() {
  charts.forEach(([chart], index) => {
    const width = Math.max(200, find(CHARTS[index][0]).clientWidth);
    if (width !== chart.width) chart.setSize({ width, height: 170 });
  });
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", build);
new ResizeObserver(resize).observe(find("main"));

/* Results. */

const onlyFailures = () => document.querySelector('input[name="shown"]:checked').value === "failures";

function addResult(it) {
  const body = find("rows-results");
  const row = body.insertRow(0);
  const failed = it.status !== "ok";
  row.dataset.failed = failed ? "yes" : "no";
  row.hidden = onlyFailures() && !failed;
  const open = make("button", it.id || "(no id)");
  open.type = "button";
  open.onclick = () => showStory(it);
  row.append(make("td", clock(it.at)));
  row.append(make("td"));
  row.lastChild.append(open);
  row.append(make("td", failed ? it.kind || "failed" : `ok ${it.http_status ?? ""}`, failed ? "bad" : "good"));
  row.append(make("td", it.timings.total === undefined ? "–" : it.timings.total.toFixed(2), "n"));
  row.append(make("td", it.url, "text"), make("td", failed ? it.message : it.title, "text"));
  trim(body);
  noResults();
}

/* Successes go first, so that a failure is seen long enough. */
function trim(body) {
  for (const kind of ["no", "yes"]) {
    const rows = [...body.rows].filter((row) => row.dataset.failed === kind);
    rows.slice(MAX_RESULTS / 2).forEach((row) => row.remove());
  }
}

function noResults() {
  const shown = [...find("rows-results").rows].some((row) => !row.hidden);
  find("none-results").hidden = shown;
  find("rows-results").closest(".table").hidden = !shown;
}

for (const radio of document.querySelectorAll('input[name="shown"]')) {
  radio.onchange = () => {
    for (const row of find("rows-results").rows) row.hidden = onlyFailures() && row.dataset.failed === "no";
    noResults();
  };
}

function showStory(it) {
  const timings = Object.entries(it.timings).map(([name, seconds]) => `${name} ${span(seconds)}`);
  const facts = [
    ["Outcome", it.status === "ok" ? `ok, ${it.http_status ?? "no status"}` : `failed: ${it.kind}`],
    ["Message", it.message], ["URL", it.url], ["Final URL", it.final_url === it.url ? "" : it.final_url],
    ["Title", it.title], ["Attempts before", it.attempts.map((one) => `${one.at}  ${one.kind}  by ${one.worker}`).join("\n")],
    ["Attempt", `${it.attempt}, run ${it.run}`],
    ["Redirects", it.redirects.map((hop) => `${hop.status} to ${hop.url}`).join("\n")],
    ["HTTP status", it.status === "ok" ? "" : String(it.http_status ?? "")],
    ["Content", [it.content_type, it.size === null ? "" : size(it.size)].filter(Boolean).join(", ")],
    ["Time", timings.join(", ")], ["Worker", it.worker], ["Dead letter", it.dead_letter ? "yes: its job lies in the dead queue" : ""],
    ["Data", it.data],
  ];
  say(find("story-title"), `Job ${it.id}`);
  const shown = facts.filter(([, value]) => value);
  find("story-facts").replaceChildren(...shown.flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  find("story").showModal();
}

/* Dead letters: of jobs, and of callbacks. A panel is a copy of one template; in what they differ is
   here, by queue. A cell is a text, or [text, classes]. */

const QUEUES_OF_DEAD = {
  dead: {
    id: "dead", many: "dead letters", again: "Requeue", done: "requeued", means: "Their jobs run again.",
    columns: ["Died", "Reason", "Kind", "Host", "Id", "URL", "Message"],
    cells: (it) => [ago(it.age), it.reason, it.kind || "–", it.host || "–", it.id || "–", [it.url || "–", "text"], [it.message, "text"]],
  },
  "callbacks.dead": {
    id: "callbacks", many: "dead callbacks", again: "Replay", done: "replayed",
    means: "They are sent again, from their first attempt. Forged ones are left, unless you choose the reason forged.",
    columns: ["Died", "Reason", "Endpoint", "Host", "Attempt", "Job", "Message"],
    cells: (it) => [ago(it.age), it.reason, it.to || "–", it.host || "–", String(it.attempt), it.id || "–", [it.message, "text"]],
  },
};
const panels = {}; // by queue, once the gateway has said which there are

class Panel {
  /* `about` is what the gateway says of the queue: its path, the action besides purge, reasons, kinds. */
  constructor(about) {
    this.about = about;
    this.own = QUEUES_OF_DEAD[about.queue];
    this.listed = 0;
    const copy = find("letters").content.cloneNode(true);
    this.parts = {};
    for (const part of copy.querySelectorAll("[data-part]")) {
      this.parts[part.dataset.part] = part;
      part.id = `${this.own.id}-${part.dataset.part}`;
    }
    find(this.own.id).append(copy);
    this.describe();
    this.parts.form.onsubmit = (event) => {
      event.preventDefault();
      this.list();
    };
    this.parts.search.oninput = () => this.search();
    this.parts.again.onclick = () => this.act(about.again);
    this.parts.purge.onclick = () => this.act("purge");
  }

  describe() {
    const { reason, kind, head, table, said } = this.parts;
    for (const [select, names] of [[reason, this.about.reasons], [kind, this.about.kinds]]) {
      select.append(...names.map((name) => make("option", name)));
      select.parentElement.hidden = !names.length;
    }
    for (const name of this.own.columns) {
      const cell = make("th", name);
      cell.scope = "col";
      head.append(cell);
    }
    table.setAttribute("aria-label", this.own.many);
    say(said, `Choose List to read the queue of ${this.own.many}.`);
  }

  filters() {
    const found = {};
    for (const name of ["reason", "kind", "host", "id"]) {
      const value = this.parts[name].value.trim();
      if (value) found[name] = [value];
    }
    if (this.parts.older.value) found.older_than = Number(this.parts.older.value);
    return found;
  }

  selected() {
    return [...this.parts.rows.querySelectorAll("input:checked")].map((box) => box.value);
  }

  word(what) {
    return what === "purge" ? "Purge" : this.own.again;
  }

  buttons() {
    const many = this.selected().length;
    for (const what of ["again", "purge"]) {
      this.parts[what].disabled = me.role !== "admin" || !this.listed;
      say(this.parts[what], many ? `${this.word(what)} ${many} selected…` : `${this.word(what)} all that match…`);
    }
  }

  async list() {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(this.filters())) query.append(name, value);
    say(this.parts.said, "Reading …");
    try {
      const found = await get(`${this.about.path}?${query}`);
      this.listed = found.letters.length;
      this.parts.rows.replaceChildren(...found.letters.map((it) => this.row(it)));
      const more = found.rest ? ` ${found.rest} more were not read.` : "";
      const role = me.role === "admin" ? "" : ` To ${this.about.again} or purge, use a token with the role admin.`;
      say(this.parts.said, `${this.listed} of ${found.total} ${this.own.many} match.${more}${role}`);
    } catch (error) {
      say(this.parts.said, `Not read: ${error.message}`);
    }
    this.search();
    this.buttons();
  }

  row(it) {
    const row = make("tr");
    const box = make("input");
    box.type = "checkbox";
    box.value = it.id || "";
    box.disabled = !it.id;
    box.setAttribute("aria-label", `Select the letter of job ${it.id || "without an id"}`);
    box.onchange = () => this.buttons();
    row.append(make("td"));
    row.lastChild.append(box);
    for (const cell of this.own.cells(it)) row.append(Array.isArray(cell) ? make("td", ...cell) : make("td", cell));
    return row;
  }

  search() {
    const { search, rows, table } = this.parts;
    const wanted = search.value.trim().toLowerCase();
    for (const row of rows.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
    table.hidden = ![...rows.rows].some((row) => !row.hidden);
  }

  /* First the gateway counts, and changes nothing; then it changes as many as were counted. */
  async act(what) {
    const chosen = this.selected();
    const asked = this.filters();
    if (chosen.length) asked.id = chosen;
    if (!Object.keys(asked).length) asked.all = true;
    const word = this.word(what);
    const dialog = find("confirm");
    say(find("confirm-title"), `${word} ${this.own.many}`);
    say(find("confirm-text"), "Counting …");
    find("confirm-go").hidden = true;
    dialog.showModal();
    try {
      const found = await post(`${this.about.path}/${what}`, asked);
      const means = what === "purge" ? "They are gone for good." : this.own.means;
      say(find("confirm-text"), `${found.matched} of ${found.total} ${this.own.many} match. ${means} Nothing was changed yet.`);
      say(find("confirm-go"), `${word} ${found.matched}`);
      find("confirm-go").hidden = !found.matched;
      find("confirm-go").onclick = () => this.reallyAct(what, { ...asked, expected: found.matched });
    } catch (error) {
      say(find("confirm-text"), `Not counted: ${error.message}`);
    }
  }

  async reallyAct(what, asked) {
    const done = what === "purge" ? "purged" : this.own.done;
    find("confirm-go").hidden = true;
    say(find("confirm-text"), "Working …");
    try {
      const found = await post(`${this.about.path}/${what}`, asked);
      find("confirm").close();
      await this.list();
      say(this.parts.said, `${found.done} ${done}. ${this.parts.said.textContent}`);
    } catch (error) {
      say(find("confirm-text"), `Stopped: ${error.message}. See “What was done”.`);
    }
  }
}

find("confirm-no").onclick = () => find("confirm").close();

function addAction(it) {
  const row = find("rows-actions").insertRow(0);
  row.append(make("td", new Date(it.at * 1000).toLocaleString()), make("td", it.holder), make("td", it.queue), make("td", it.action));
  row.append(make("td", String(it.jobs), "n"), make("td", it.filters, "text"), make("td", it.error || "–", "text"));
  find("none-actions").hidden = true;
  find("rows-actions").closest(".table").hidden = false;
}

/* The configuration. */

find("config-details").ontoggle = async () => {
  if (!find("config-details").open || find("rows-config").rows.length) return;
  try {
    const found = await get("/v1/config");
    fill("rows-config", found.settings.map((it) => [it.name, [it.value || "(empty)", "text"], [it.unit, "text"], it.default]));
  } catch (error) {
    fill("rows-config", [["", `Not read: ${error.message}`, "", ""]]);
  }
};

/* The daemons are asked each time that this is opened: a reload or a restart may have changed them. */
find("daemons-details").ontoggle = async () => {
  if (!find("daemons-details").open) return;
  try {
    const found = await get("/v1/config/daemons");
    const silent = found.silent ? ` ${found.silent} did not answer: they are silent, or of an earlier version.` : "";
    const names = found.answer.join(", ") || "none";
    say(find("daemons-said"), `${found.answer.length} answered: ${names}.${silent}`);
    fill("rows-daemons", found.settings.map(settingRow));
  } catch (error) {
    say(find("daemons-said"), `Not read: ${error.message}`);
  }
};

function settingRow(it) {
  const value = it.value === null ? "as by default" : it.value || "(empty)";
  return [it.name, [value, "text"], [it.processes.join(", ") || "all", "text"]];
}

for (const id of ["rows-actions", "rows-results", "rows-processes", "rows-kinds", "rows-steps", "rows-hosts", "rows-batches", "rows-daemons"]) {
  find(id).closest(".table").hidden = true;
}
build();
signIn().then(follow);
