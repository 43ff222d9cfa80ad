// One lock: who holds it, who waits, what is wanted of them, what has become of it.

import { byId, clock, cut, make, printable, since } from "./dom.js";
import { Timeline } from "./timeline.js";

// How often its resource and the Events of it are read while it is shown.
const REREAD = 15000;

export class Lock {
  constructor() {
    this.timeline = new Timeline(byId("timeline"));
  }

  select(key) {
    if (key === this.key) return;
    const open = this.key === undefined && key !== undefined;
    this.key = key;
    this.resource = undefined;
    this.read = 0;
    byId("lock-title").textContent = key === undefined ? "" : printable(key);
    byId("lock-body").replaceChildren();
    byId("lock-resource").replaceChildren();
    this.timeline.show(undefined);
    if (open) byId("lock-title").focus({ preventScroll: false });
  }

  tick() {
    this.timeline.tick();
    if (this.resource !== undefined && Date.now() - this.read > REREAD) this.reread();
  }

  apply(told) {
    if (told.key !== this.key) return;
    const { lock } = told;
    byId("lock-title").textContent = printable(lock?.name ?? told.key);
    byId("lock-body").replaceChildren(...(lock === undefined ? gone(told) : there(told)));
    this.timeline.show(told.timeline);
    const resource = told.resource?.join("/");
    if (resource !== this.resource) {
      this.resource = resource;
      byId("lock-resource").replaceChildren();
      if (resource !== undefined) this.reread();
    }
  }

  async reread() {
    this.read = Date.now();
    const { key } = this;
    try {
      const answer = await fetch(`/api/locks/${key}/resource`);
      if (!answer.ok) return;
      const told = await answer.json();
      if (this.key === key) byId("lock-resource").replaceChildren(...resource(told));
    } catch {
      // That this process does not answer is said by the stream.
    }
  }
}

function gone({ timeline }) {
  const text = timeline === undefined
    ? "It has no Lease now, so it is free; nothing was seen of it since this was started."
    : "It has no Lease now, so it is free.";
  return [make("p", {}, text)];
}

function there({ lock, problem, policy, moreHolders, moreWaiters }) {
  if (problem !== undefined) return [make("p", { class: "alarm" }, printable(problem))];
  const facts = [
    ["Kind", lock.kind],
    ["Lease", `${lock.namespace}/${lock.leaseName}`],
    lock.permits && ["Permits", `${lock.permits.held} of ${lock.permits.total} held, ${lock.permits.available} available`],
    ["Lease made", since(lock.created), " ago"],
    lock.upgrading && ["Becomes the writer", lock.upgrading],
    ...policy,
  ].filter(Boolean);
  return [
    make("dl", {}, facts.map(([name, ...value]) => make("div", {}, make("dt", {}, name),
      make("dd", {}, value.map((part) => (typeof part === "string" ? printable(part) : part)))))),
    make("h3", {}, lock.holders.length > 1 ? `Held by ${lock.holders.length + moreHolders}` : "Held by"),
    lock.holders.length === 0 ? make("p", {}, "Nobody.") : make("ul", { class: "holders" }, lock.holders.map(holder)),
    more(moreHolders),
    make("h3", {}, `Queue (${lock.waiters.length + moreWaiters})`),
    lock.waiters.length === 0 ? make("p", {}, "Nobody waits.") : make("ol", { class: "waiters" }, lock.waiters.map(waiter)),
    more(moreWaiters),
  ].filter(Boolean);
}

const more = (count) => count > 0 && make("p", {}, `and ${count} more`);

function holder(of) {
  const lives = of.kept ? `is left there for ${of.leaseDurationSeconds}s`
    : of.session !== undefined ? "lives by its session" : `lives by renewals for ${of.leaseDurationSeconds}s each`;
  const request = of.releaseRequest;
  return make("li", {},
    make("strong", {}, printable(of.host ?? of.identity)),
    of.share === undefined ? "" : ` has ${of.share}`,
    of.since === undefined ? "" : [" for ", since(of.since)],
    of.token === undefined ? "" : `, token ${of.token}`,
    make("br"),
    make("small", {}, printable(`${of.identity}; ${lives}`)),
    of.payload && make("p", { class: "payload" }, printable(of.payload)),
    request && make("p", { class: "alarm" }, printable(`${request.by} asks for it within ${request.withinSeconds}s: ${request.reason}`)));
}

function waiter(of) {
  return make("li", {}, make("strong", {}, printable(of.host)), of.wants === undefined ? "" : ` wants ${of.wants}`,
    " ", make("small", {}, printable(of.identity)));
}

function resource(told) {
  const conditions = told.conditions.map((condition) => make("tr", {},
    make("th", { scope: "row" }, printable(condition.type)),
    make("td", {}, printable(condition.status)),
    make("td", {}, printable(condition.reason)),
    make("td", {}, printable(condition.message)),
    make("td", {}, since(condition.lastTransitionTime))));
  const events = told.events.map((event) => make("li", {},
    event.at === undefined ? "" : make("time", { datetime: event.at }, clock(event.at)), " ",
    make("strong", {}, printable(event.reason)), event.kind === "Warning" ? " (warning)" : "",
    event.count > 1 ? ` ×${event.count}` : "", ` ${cut(event.note, 400)}`));
  const head = ["Condition", "Is", "Reason", "Message", "Since"].map((title) => make("th", { scope: "col" }, title));
  return [
    make("h3", {}, printable(`${told.kind} ${told.name}`)),
    told.conditions.length > 0 && make("table", { class: "conditions" }, make("thead", {}, make("tr", {}, head)), make("tbody", {}, conditions)),
    make("h4", {}, "Events"),
    events.length === 0 ? make("p", {}, "None.") : make("ul", { class: "events" }, events),
    told.problems.map((problem) => make("p", { class: "alarm" }, printable(problem))),
  ].flat().filter(Boolean);
}
