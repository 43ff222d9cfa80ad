// What the page shows stands in its address; one stream tells what that looks like and what becomes of it.

import { byId, clock, make, printable, tick } from "./dom.js";
import { List } from "./list.js";
import { Lock } from "./lock.js";
import { Graph } from "./graph.js";

// The process sends something at least so often.
const SILENCE = 15000;
const PAUSE = 2000;

const list = new List(connect);
const lock = new Lock();
const graph = new Graph();

let stream;
let heard = Date.now();
let tried = heard;
let failed = false;
let retry;
let server = { heard: true };

function route() {
  const [, key] = /^#\/lock\/([A-Za-z0-9.-]+\/[A-Za-z0-9.-]+)$/.exec(location.hash) ?? [];
  return { lock: key, graph: location.hash === "#/graph" };
}

function show({ lock: key, graph: wanted }) {
  byId("list").hidden = wanted;
  byId("graph").hidden = !wanted;
  byId("lock").hidden = key === undefined;
  document.body.classList.toggle("beside", key !== undefined);
  for (const [id, here] of [["to-list", !wanted], ["to-graph", wanted]]) {
    if (here) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  if (key === undefined && !wanted && lock.key !== undefined) list.focus(lock.key);
  list.select(key);
  lock.select(key);
}

function connect() {
  clearTimeout(retry);
  stream?.close();
  stream = undefined;
  // A browser opens few connections to one process: pages that nobody sees leave theirs to others.
  if (document.hidden) return;
  const { lock: key, graph: wanted } = route();
  const query = list.query();
  if (key !== undefined) query.set("lock", key);
  if (wanted) query.set("graph", "1");
  list.reset();
  const current = new EventSource(`/api/stream?${query}`);
  stream = current;
  tried = Date.now();
  const on = (name, handle) => current.addEventListener(name, (event) => {
    if (stream !== current) return;
    heard = Date.now();
    failed = false;
    handle(JSON.parse(event.data));
    alarm();
  });
  on("alive", () => {});
  on("about", about);
  on("server", (told) => { server = told; });
  on("list", (told) => list.apply(told));
  on("lock", (told) => lock.apply(told));
  on("graph", (told) => graph.apply(told));
  current.addEventListener("error", () => {
    if (stream !== current) return;
    current.close();
    stream = undefined;
    failed = true;
    alarm();
    retry = setTimeout(connect, PAUSE);
  });
}

function about(told) {
  const place = told.namespace === undefined ? "all namespaces" : `namespace ${told.namespace}`;
  const context = told.context === undefined ? "" : ` of ${told.context}`;
  byId("about").textContent = printable(`${place}${context}`);
  byId("about").title = printable(`${told.server} · kubectl leasehold ${told.version} · looking since ${clock(told.since)}`);
  document.title = printable(`Leasehold: ${place}`);
  list.namespaces(told.namespace === undefined);
}

// What the page shows is as old as what it heard last; it says so.
function alarm() {
  const element = byId("alarm");
  const deaf = failed || Date.now() - heard > SILENCE;
  let text = "";
  if (deaf) {
    text = `kubectl leasehold ui is not heard of since ${clock(heard)}: what is shown is as it was then. Is it still running?`;
  } else if (!server.heard) {
    text = `The API server is not heard of since ${clock(server.since)}: what is shown is as it was then. ${server.why}`;
  }
  byId("server").textContent = text ? "not live" : "live";
  byId("server").className = text ? "stale" : "live";
  document.body.classList.toggle("stale", text !== "");
  if (element.textContent !== printable(text)) element.replaceChildren(make("strong", {}, printable(text)));
  element.hidden = text === "";
}

addEventListener("hashchange", () => { show(route()); connect(); });
document.addEventListener("visibilitychange", () => {
  if (!failed) heard = Date.now();
  connect();
});
addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement && event.target.type === "search";
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    byId("search").focus();
  } else if (event.key === "Escape" && !typing && route().lock !== undefined) {
    location.hash = "#/";
  }
});
setInterval(() => {
  if (document.hidden) return;
  if (stream !== undefined && Date.now() - Math.max(heard, tried) > SILENCE) connect();
  tick();
  lock.tick();
  alarm();
}, 1000);

show(route());
connect();
