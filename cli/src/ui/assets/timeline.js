// Who held and who waited when: a bar for each stay, in a line for each pod or host, or several where it stayed more
// than once at a time. What holds is full, what waits is hatched.

import { clock, cut, draw, elapsed, make, printable } from "./dom.js";

const SPANS = [["1 min", 60], ["5 min", 300], ["15 min", 900], ["1 h", 3600], ["all", Infinity]];
const LINES = 30;
const LINE = 22;
const LONGEST_NAME = 22;
const WIDTH = 720;
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400];

export class Timeline {
  constructor(element) {
    this.seconds = 300;
    this.choice = make("select", { id: "timeline-span" }, SPANS.map(([title, seconds]) =>
      make("option", { value: seconds, selected: seconds === this.seconds }, title)));
    this.choice.addEventListener("change", () => { this.seconds = Number(this.choice.value); this.show(this.history); });
    this.picture = make("div", { class: "scroll" });
    this.note = make("p", { class: "note" });
    this.table = make("tbody");
    this.details = make("details", {}, make("summary", {}, "As a table"),
      make("table", {}, make("thead", {}, make("tr", {}, ["Who", "Did", "From", "To", "For"].map((t) => make("th", { scope: "col" }, t)))), this.table));
    this.details.addEventListener("toggle", () => this.tabulate());
    const legend = make("p", { class: "legend", "aria-hidden": "true" },
      key("holds", "holds"), key("waits", "waits"), key("gap", "nothing could be seen"));
    element.append(make("label", {}, "The last ", this.choice), legend, this.picture, this.note, this.details);
  }

  show(history) {
    this.history = history;
    this.redraw();
    this.tabulate();
  }

  tick() {
    if (this.history !== undefined) this.redraw();
  }

  redraw() {
    if (this.history === undefined) {
      for (const element of [this.picture, this.note]) element.replaceChildren();
      return;
    }
    const { marks, gaps, more, forgotten } = this.history;
    const { begin, now, stays } = this.stays();
    const lines = inLines(stays);
    // Whoever is here now is drawn in any case.
    const here = (line) => line.stays.some((span) => span.to === undefined);
    const shown = [...lines].sort((a, b) => here(b) - here(a) || b.end - a.end).slice(0, LINES).sort((a, b) => a.begin - b.begin);
    this.picture.replaceChildren(picture({ begin, now, lines: shown, marks, gaps }));
    const earlier = lines.length - shown.length;
    const notes = [
      earlier > 0 && `${earlier} more lines are not drawn.`,
      more > 0 && `${more} more are here now and are not drawn.`,
      forgotten > 0 && `${forgotten} stays that ended earlier are forgotten.`,
      ...marks.map((mark) => `${clock(mark.at)} ${mark.what}.`),
    ].filter(Boolean);
    this.note.textContent = printable(notes.join(" "));
  }

  // Those of the time that is looked at.
  stays() {
    const now = Date.now();
    const begin = Math.max(Date.parse(this.history.since), now - this.seconds * 1000);
    const stays = this.history.spans.map((span) => ({ ...span, begin: Date.parse(span.from), end: span.to === undefined ? now : Date.parse(span.to) }))
      .filter((span) => span.end >= begin).sort((a, b) => a.begin - b.begin);
    return { begin, now, stays };
  }

  tabulate() {
    if (this.history === undefined || !this.details.open) this.table.replaceChildren();
    else this.table.replaceChildren(...this.stays().stays.reverse().slice(0, 200).map(line));
  }
}

function key(kind, text) {
  const picture = draw("svg", { class: "key", width: 28, height: 12 }, patterns("key"),
    draw("rect", { class: `bar ${kind}`, x: 1, y: 1, width: 26, height: 10, fill: kind === "holds" ? null : `url(#key-${kind})` }));
  return make("span", {}, picture, ` ${text} `);
}

// Stripes tell what colours tell.
function patterns(prefix) {
  const stripes = (kind, turn) => draw("pattern",
    { id: `${prefix}-${kind}`, class: `stripes ${kind}`, width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${turn})` },
    draw("rect", { width: 6, height: 6, class: "ground" }), draw("line", { x1: 0, y1: 0, x2: 0, y2: 6, class: "stripe" }));
  return draw("defs", {}, stripes("waits", 45), stripes("gap", -45));
}

function said(span) {
  const to = span.to === undefined ? "now" : `${span.endedBefore ? "some time before " : ""}${clock(span.end)}`;
  const from = `${span.beganBefore ? "before " : ""}${clock(span.begin)}`;
  const share = span.share === undefined ? "" : ` ${span.share}`;
  const did = span.role === "holds" ? (span.to === undefined ? "holds" : "held") : (span.to === undefined ? "waits" : "waited");
  return { did: `${did}${share}`, from, to, long: elapsed(span.end - span.begin) };
}

function line(span) {
  const { did, from, to, long } = said(span);
  return make("tr", {}, make("th", { scope: "row" }, cut(span.who, 60)), [did, from, to, long].map((text) => make("td", {}, text)));
}

// An identity of ours is `<pod or host>_<random>.<number>`.
const OURS = /^(.*)_[0-9a-z]{10}\.\d+$/;

function inLines(stays) {
  const lines = [];
  const of = new Map();
  for (const span of stays) {
    const [, host] = OURS.exec(span.who) ?? [undefined, span.who];
    const known = of.get(host) ?? [];
    let line = known.find((other) => other.end <= span.begin);
    if (line === undefined) {
      line = { host, begin: span.begin, stays: [] };
      known.push(line);
      of.set(host, known);
      lines.push(line);
    }
    line.stays.push(span);
    line.end = span.end;
  }
  return lines;
}

function picture({ begin, now, lines, marks, gaps }) {
  const stays = lines.flatMap((line) => line.stays);
  const height = Math.max(1, lines.length) * LINE + 22;
  const names = Math.max(60, ...lines.map(({ host }) => Math.min([...host].length, LONGEST_NAME) * 7.5 + 12));
  const length = Math.max(1000, now - begin);
  const x = (time) => names + ((Math.min(Math.max(time, begin), now) - begin) / length) * (WIDTH - names - 8);
  const y = (n) => n * LINE + 3;
  const title = `Timeline from ${clock(begin)} to ${clock(now)}: ${stays.length} stays in ${lines.length} lines; the same as a table below.`;
  const root = draw("svg", { viewBox: `0 0 ${WIDTH} ${height}`, width: WIDTH, height, role: "img", "aria-label": title, class: "timeline" }, patterns("timeline"));
  const step = STEPS.find((seconds) => (length / 1000 / seconds) * 70 <= WIDTH - names) ?? length / 1000;
  for (let time = Math.ceil(begin / 1000 / step) * step * 1000; time <= now; time += step * 1000) {
    root.append(draw("line", { class: "grid", x1: x(time), x2: x(time), y1: 0, y2: height - 18 }));
    if (x(time) < WIDTH - 28) {
      root.append(draw("text", { class: "axis", x: x(time), y: height - 5, "text-anchor": "middle" }, clock(time).slice(0, step < 60 ? 8 : 5)));
    }
  }
  lines.forEach(({ host }, n) => {
    const name = draw("text", { class: "who", x: names - 6, y: y(n) + 13, "text-anchor": "end" }, cut(host, LONGEST_NAME));
    name.append(draw("title", {}, printable(host)));
    root.append(name);
  });
  for (const [n, span] of lines.flatMap((line, n) => line.stays.map((span) => [n, span]))) {
    const from = x(span.begin);
    const { did, from: began, to, long } = said(span);
    const bar = draw("rect", { class: `bar ${span.role}`, "data-who": span.who, x: from, y: y(n), width: Math.max(2, x(span.end) - from), height: LINE - 6,
      fill: span.role === "holds" ? null : "url(#timeline-waits)" });
    bar.append(draw("title", {}, printable(`${span.who} ${did} from ${began} to ${to} (${long})`)));
    root.append(bar);
    // An edge that nobody saw is open.
    if (span.beganBefore) root.append(open(from, y(n)));
    if (span.endedBefore) root.append(open(x(span.end), y(n)));
  }
  for (const gap of gaps) {
    const end = gap.to === undefined ? now : Date.parse(gap.to);
    if (end < begin) continue;
    const from = x(Date.parse(gap.from));
    const cover = draw("rect", { class: "gap", x: from, y: 0, width: Math.max(2, x(end) - from), height: height - 18, fill: "url(#timeline-gap)" });
    cover.append(draw("title", {}, `Nothing could be seen from ${clock(gap.from)} to ${gap.to === undefined ? "now" : clock(gap.to)}`));
    root.append(cover);
  }
  for (const mark of marks) {
    if (Date.parse(mark.at) < begin) continue;
    const at = x(Date.parse(mark.at));
    const sign = draw("path", { class: "mark", d: `M${at} 0V${height - 18}M${at - 4} 0h8l-4 7z` });
    sign.append(draw("title", {}, printable(`${clock(mark.at)} ${mark.what}`)));
    root.append(sign);
  }
  return root;
}

function open(x, y) {
  return draw("line", { class: "open", x1: x, x2: x, y1: y - 2, y2: y + LINE - 4 });
}
