// Who waits for whom. An arrow leads from whoever waits to what is waited for, and from that to whoever holds it, so that
// a circle is a circle of arrows.

import { byId, cut, draw, make, printable } from "./dom.js";

const BOX = { width: 160, height: 36, across: 104, down: 18, above: 44 };
const SHAPES = { lock: "lock", semaphore: "semaphore", rwlock: "read-write lock", client: "client" };

export class Graph {
  apply(told) {
    const { nodes, edges, circles, texts, more } = told;
    const parts = [];
    if (circles.length > 0) {
      parts.push(make("div", { class: "alarm", role: "alert" },
        make("strong", {}, circles.length === 1 ? "A deadlock: these wait for each other." : `${circles.length} deadlocks: these wait for each other.`),
        make("ol", { id: "circles" }, texts.map((text) => make("li", {}, printable(text))))));
    }
    if (nodes.length === 0) {
      parts.push(make("p", {}, "Nobody waits."));
    } else {
      parts.push(
        make("p", { class: "note" }, "Full arrows lead from a lock to who holds it, broken ones from who waits to what it waits for, with its place in the queue. Thick ones, marked with a cross, are parts of a deadlock. What a waiter holds elsewhere is known once it has waited for half a minute."),
        make("div", { class: "scroll" }, picture(told)),
        more > 0 && make("p", {}, `and ${more} more are connected with these or others that wait`),
        table(nodes, edges));
    }
    byId("graph-body").replaceChildren(...parts.filter(Boolean));
  }
}

const arrows = (edges) => edges.map((edge) => (edge.kind === "holds"
  ? { ...edge, start: edge.to, end: edge.from } : { ...edge, start: edge.from, end: edge.to }));

// In layers: what an arrow leads to stands to the right of where it comes from, but for arrows that close a circle.
function layers(nodes, edges) {
  const next = new Map(nodes.map((node) => [node.id, []]));
  for (const { start, end } of edges) next.get(start)?.push(end);
  const layer = new Map();
  const open = new Set();
  const order = [];
  const back = new Set();
  // Without recursion: a queue can be long.
  const visit = (root) => {
    const path = [[root, 0]];
    open.add(root);
    while (path.length > 0) {
      const step = path[path.length - 1];
      const to = next.get(step[0])[step[1]++];
      if (to === undefined) {
        open.delete(step[0]);
        order.push(step[0]);
        path.pop();
      } else if (open.has(to)) {
        back.add(`${step[0]} ${to}`);
      } else if (!layer.has(to) && next.has(to)) {
        layer.set(to, 0);
        open.add(to);
        path.push([to, 0]);
      }
    }
  };
  const led = new Set(edges.map((edge) => edge.end));
  for (const node of [...nodes.filter((n) => !led.has(n.id)), ...nodes]) {
    if (layer.has(node.id)) continue;
    layer.set(node.id, 0);
    visit(node.id);
  }
  for (const id of order.reverse()) {
    for (const to of next.get(id)) {
      if (!back.has(`${id} ${to}`)) layer.set(to, Math.max(layer.get(to), layer.get(id) + 1));
    }
  }
  return layer;
}

// Within its layer each stands at about the height of those that lead to it.
function place(nodes, edges) {
  const layer = layers(nodes, edges);
  const columns = [];
  for (const node of nodes) (columns[layer.get(node.id)] ??= []).push(node);
  const at = new Map();
  columns.forEach((column, n) => {
    const wish = (node) => {
      const before = edges.filter((edge) => edge.end === node.id && at.has(edge.start)).map((edge) => at.get(edge.start).y);
      return before.length === 0 ? Infinity : before.reduce((a, b) => a + b, 0) / before.length;
    };
    const wishes = new Map(column.map((node) => [node.id, wish(node)]));
    column.sort((a, b) => (wishes.get(a.id) === wishes.get(b.id) ? 0 : wishes.get(a.id) - wishes.get(b.id)));
    let free = BOX.above;
    for (const node of column) {
      const wished = wishes.get(node.id);
      const y = Math.max(free, Number.isFinite(wished) ? wished : free);
      at.set(node.id, { x: 10 + n * (BOX.width + BOX.across), y });
      free = y + BOX.height + BOX.down;
    }
  });
  return at;
}

function picture({ nodes, edges: all, circles }) {
  const edges = arrows(all);
  const at = place(nodes, edges);
  const inCircle = new Set(circles.flat());
  const places = [...at.values()];
  const width = Math.max(...places.map((p) => p.x)) + BOX.width + 40;
  const height = Math.max(...places.map((p) => p.y)) + BOX.height + 40;
  const tip = (id) => draw("marker", { id, class: id, viewBox: "0 0 8 8", refX: 8, refY: 4, markerUnits: "userSpaceOnUse", markerWidth: 11, markerHeight: 11, orient: "auto-start-reverse" }, draw("path", { d: "M0 0L8 4L0 8z" }));
  const root = draw("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", class: "graph",
    "aria-label": `${nodes.length} locks and clients, ${circles.length} deadlocks; the same as a table below` },
    draw("defs", {}, tip("tip"), tip("tip-circle")));
  for (const edge of edges) {
    const [from, to] = [at.get(edge.start), at.get(edge.end)];
    if (from === undefined || to === undefined) continue;
    const circle = edge.deadlocked === true;
    const forwards = to.x > from.x;
    const [x1, y1] = [forwards ? from.x + BOX.width : from.x + BOX.width / 2, forwards ? from.y + BOX.height / 2 : from.y];
    const [x2, y2] = [forwards ? to.x : to.x + BOX.width / 2, forwards ? to.y + BOX.height / 2 : to.y];
    const rise = Math.min(y1, y2) - 32;
    const path = forwards ? `M${x1} ${y1}C${x1 + 50} ${y1} ${x2 - 50} ${y2} ${x2} ${y2}` : `M${x1} ${y1}C${x1} ${rise} ${x2} ${rise} ${x2} ${y2}`;
    const name = edge.kind === "holds" ? `holds${edge.share ? ` ${edge.share}` : ""}` : `waits${edge.place ? `, ${edge.place}.` : ""}${edge.share ? ` ${edge.share}` : ""}`;
    const arrow = draw("path", { class: `edge ${edge.kind}${circle ? " circle" : ""}`, d: path, "marker-end": `url(#${circle ? "tip-circle" : "tip"})` });
    arrow.append(draw("title", {}, printable(`${edge.identity} ${name}`)));
    const middle = [(x1 + x2) / 2, forwards ? (y1 + y2) / 2 - 4 : rise + (Math.min(y1, y2) - rise) / 4 - 4];
    root.append(arrow, draw("text", { class: "edge-name", x: middle[0], y: middle[1], "text-anchor": "middle" }, `${circle ? "✕ " : ""}${cut(name, 18)}`));
  }
  for (const node of nodes) {
    const { x, y } = at.get(node.id);
    const circle = inCircle.has(node.id);
    const client = node.kind === "client";
    const text = `${SHAPES[node.kind] ?? node.kind}${node.permits ? ` ${node.permits.held}/${node.permits.total}` : ""}${circle ? " in a deadlock" : ""}`;
    const box = draw("g", { class: `node ${client ? "client" : "resource"}${circle ? " circle" : ""}`, "data-id": node.id },
      draw("rect", { x, y, width: BOX.width, height: BOX.height, rx: client ? BOX.height / 2 : 3 }),
      draw("text", { x: x + BOX.width / 2, y: y + 15, "text-anchor": "middle", class: "name" }, cut(node.name, 22)),
      draw("text", { x: x + BOX.width / 2, y: y + 29, "text-anchor": "middle", class: "kind" }, text),
      draw("title", {}, printable(`${node.namespace}/${node.name}`)));
    if (client) {
      root.append(box);
    } else {
      root.append(draw("a", { href: `#/lock/${node.namespace}/${node.leaseName}` }, box));
    }
  }
  return root;
}

function table(nodes, edges) {
  const names = new Map(nodes.map((node) => [node.id, node.name]));
  const rows = edges.map((edge) => make("tr", {},
    make("th", { scope: "row" }, cut(names.get(edge.from), 60)),
    make("td", {}, `${edge.kind}${edge.place ? ` (${edge.place}.)` : ""}${edge.deadlocked ? " in a deadlock" : ""}`),
    make("td", {}, cut(names.get(edge.to), 60)), make("td", {}, edge.share ?? "")));
  return make("details", {}, make("summary", {}, "As a table"), make("table", {},
    make("thead", {}, make("tr", {}, ["Who", "Does", "What", "Share"].map((title) => make("th", { scope: "col" }, title)))),
    make("tbody", {}, rows)));
}
