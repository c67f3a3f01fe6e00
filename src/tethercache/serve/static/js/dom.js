/** Small helpers for the page: find, make and fill elements; say things to screen readers. */

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 *
 * @param {string} tag its name
 * @param {object} given properties; `data` and `aria` are objects, `on` holds listeners
 * @param {...(Node|string|null|undefined|false)} children what is in it; empty ones are left out
 */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  const { data, aria, on, ...properties } = given;
  for (const [name, value] of Object.entries(data ?? {})) element.dataset[name] = value;
  for (const [name, value] of Object.entries(aria ?? {})) {
    if (value !== null && value !== undefined) element.setAttribute(`aria-${name}`, value);
  }
  for (const [name, listener] of Object.entries(on ?? {})) element.addEventListener(name, listener);
  Object.assign(element, properties);
  element.append(...children.filter((child) => child || child === 0));
  return element;
}

/** A button; `press` is called when it is pressed. */
export const button = (text, press, given = {}) =>
  make("button", { type: "button", ...given, on: { click: press } }, text);

/** Set the text of an element, unless it is there already: the page is not laid out in vain. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Replace what is in an element, and give the focus back to what had it, by `data-key`. */
export function refill(element, ...children) {
  const key = element.contains(document.activeElement) && document.activeElement.dataset.key;
  element.replaceChildren(...children.filter(Boolean));
  if (key) element.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** Tell a screen reader something, when it has time. */
export function say(text) {
  write(byId("said"), text);
}

const SHAPES = {
  play: "M8 5v14l11-7z",
  pause: "M7 5h4v14H7zM13 5h4v14h-4z",
  start: "M6 6h2v12H6zM20 6v12L9.5 12z",
  end: "M16 6h2v12h-2zM4 6v12l10.5-6z",
  back: "M17 6v12l-9-6z",
  forth: "M7 6v12l9-6z",
  full: "M4 4h6v2H6v4H4zM14 4h6v6h-2V6h-4zM4 14h2v4h4v2H4zM18 14h2v6h-6v-2h4z",
  plus: "M11 5h2v6h6v2h-6v6h-2v-6H5v-2h6z",
  minus: "M5 11h14v2H5z",
  close: "M6.4 5 12 10.6 17.6 5 19 6.4 13.4 12l5.6 5.6-1.4 1.4-5.6-5.6L6.4 19 5 17.6 10.6 12 5 6.4z",
};

/** A picture for a button. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", SHAPES[name]);
  svg.append(path);
  return svg;
}
