// Elements and texts. Whatever is shown becomes a text node: nothing here is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== undefined && value !== null && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

export function make(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

export function draw(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

// Characters that do not print, or that turn the direction of what does, are shown by their numbers.
export function printable(text) {
  return String(text ?? "").replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
}

export function cut(text, length) {
  const characters = [...printable(text)];
  return characters.length > length ? `${characters.slice(0, length - 1).join("")}…` : characters.join("");
}

// With the precision that kubectl shows.
export function elapsed(milliseconds) {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  if (seconds < 120) return `${seconds}s`;
  if (minutes < 10) return `${minutes}m${seconds % 60 ? `${seconds % 60}s` : ""}`;
  if (hours < 3) return `${minutes}m`;
  if (hours < 48) return `${hours}h`;
  return `${Math.floor(hours / 24)}d`;
}

export const ago = (time) => (time ? elapsed(Date.now() - Date.parse(time)) : "");

export const clock = (time) => new Date(time).toLocaleTimeString([], { hour12: false });

// A moment, shown as how long ago it was. `tick` keeps it right.
export function since(time) {
  return time ? make("time", { datetime: time, title: new Date(time).toString(), "data-ago": time }, ago(time)) : "";
}

export function tick() {
  for (const element of document.querySelectorAll("time[data-ago]")) {
    const text = ago(element.dataset.ago);
    if (element.textContent !== text) element.textContent = text;
  }
}
