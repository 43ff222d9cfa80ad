// The list: a window of rows, in the order that the process tells. Search, filter and sort are the process's too.

import { byId, cut, make, printable, since } from "./dom.js";

const COLUMNS = [
  ["namespace", "Namespace"],
  ["name", "Name"],
  ["kind", "Kind"],
  ["state", "State"],
  [undefined, "Share"],
  ["holder", "Holder"],
  ["since", "Held for"],
  ["waiters", "Waiting"],
];
// What is largest is looked for first.
const DOWNWARDS = ["waiters"];
const ROWS = 200;

export class List {
  constructor(changed) {
    this.changed = changed;
    this.sort = "name";
    this.descending = false;
    this.rows = ROWS;
    this.several = true;
    this.reset();
    this.heads();
    let pause;
    byId("search").addEventListener("input", () => {
      clearTimeout(pause);
      pause = setTimeout(() => this.again(), 150);
    });
    byId("query").addEventListener("submit", (event) => event.preventDefault());
    byId("query").addEventListener("change", () => this.again());
    byId("rows").addEventListener("keydown", (event) => this.move(event));
  }

  // What this window shows is asked for anew, and no further rows.
  again() {
    this.rows = ROWS;
    this.changed();
  }

  query() {
    const query = new URLSearchParams({ sort: this.sort, order: this.descending ? "desc" : "asc", rows: this.rows });
    const search = byId("search").value;
    if (search) query.set("search", search);
    query.set("filter", document.querySelector("input[name=filter]:checked").value);
    return query;
  }

  // What is shown stays until the new stream tells what there is.
  reset() {
    this.known = new Map();
    this.first = true;
  }

  namespaces(several) {
    this.several = several;
    byId("list").classList.toggle("one-namespace", !several);
  }

  select(key) {
    this.selected = key;
    for (const row of byId("rows").children) this.mark(row);
  }

  focus(key) {
    [...byId("rows").children].find((row) => row.dataset.key === key)?.querySelector("a").focus();
  }

  mark(row) {
    const link = row.querySelector("a");
    if (row.dataset.key === this.selected) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
    row.classList.toggle("selected", row.dataset.key === this.selected);
  }

  heads() {
    byId("columns").replaceChildren(...COLUMNS.map(([sort, title]) => {
      if (!sort) return make("th", { scope: "col", class: title.toLowerCase() }, title);
      const here = this.sort === sort;
      const direction = here ? (this.descending ? "descending" : "ascending") : undefined;
      const arrow = make("span", { "aria-hidden": "true" }, here ? (this.descending ? " ▾" : " ▴") : "");
      const button = make("button", { type: "button", "data-sort": sort }, title, arrow);
      button.addEventListener("click", () => {
        this.descending = here ? !this.descending : DOWNWARDS.includes(sort);
        this.sort = sort;
        this.heads();
        document.querySelector(`button[data-sort=${sort}]`).focus();
        this.again();
      });
      return make("th", { scope: "col", class: sort, "aria-sort": direction }, button);
    }));
  }

  apply({ counts, rows, order }) {
    for (const row of rows) {
      const old = this.known.get(row.key)?.row;
      const element = this.row(row);
      if (old !== undefined && !this.first) element.classList.add("changed");
      this.known.set(row.key, { row, element });
    }
    if (order !== undefined) {
      const there = new Set(order);
      for (const key of [...this.known.keys()]) if (!there.has(key)) this.known.delete(key);
      this.order = order;
    }
    this.place(this.order.map((key) => this.known.get(key).element));
    this.first = false;
    this.count(counts);
  }

  // The focus stays where it is, though the row is another one now.
  place(elements) {
    const focused = document.activeElement?.closest("#rows tr")?.dataset.key;
    const body = byId("rows");
    body.replaceChildren(...elements);
    if (focused !== undefined) this.known.get(focused)?.element.querySelector("a").focus({ preventScroll: true });
  }

  row(row) {
    const state = row.problem ? "Unreadable" : row.waiters > 0 ? `${row.state}, contended` : row.state;
    const link = make("a", { href: `#/lock/${row.key}`, title: printable(row.name) }, cut(row.name, 60));
    const holder = row.holder === undefined ? "" : cut(row.holder, 40) + (row.holders > 1 ? ` +${row.holders - 1}` : "");
    const kind = row.problem ? "" : row.kind;
    const cells = [row.namespace, link, kind, state, row.share, holder, since(row.since), row.waiters || ""];
    const problem = row.problem ? { title: printable(row.problem) } : {};
    const element = make("tr", { "data-key": row.key, class: `${row.state.toLowerCase()}${row.waiters ? " contended" : ""}` },
      cells.map((cell, n) => make(n === 1 ? "th" : "td", { scope: n === 1 && "row", class: COLUMNS[n][0] ?? "share", ...problem }, cell)));
    this.mark(element);
    return element;
  }

  count({ total, held, contended, matching }) {
    const counts = { all: total, held, free: total - held, contended };
    for (const [name, count] of Object.entries(counts)) byId(`count-${name}`).textContent = `(${count})`;
    const shown = this.order.length;
    const parts = [];
    if (total === 0) parts.push("There are no locks, semaphores or read-write locks. A lock is there while somebody holds it or waits.");
    else if (matching === 0) parts.push("None of them is like that.");
    else if (matching > shown) parts.push(`${shown} are shown, and ${matching - shown} more are there. `);
    if (matching > shown && shown < 1000) {
      const button = make("button", { type: "button" }, "Show more");
      button.addEventListener("click", () => { this.rows = Math.min(1000, this.rows + ROWS); this.changed(); });
      parts.push(button);
    } else if (matching > shown) parts.push("Search to find them.");
    const text = parts.map((part) => part.textContent ?? part).join("");
    if (this.said !== text) byId("more").replaceChildren(...parts);
    this.said = text;
  }

  move(event) {
    const row = event.target.closest("tr");
    const next = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const to = next && row?.[next]?.querySelector("a");
    if (!to) return;
    event.preventDefault();
    to.focus();
  }
}
