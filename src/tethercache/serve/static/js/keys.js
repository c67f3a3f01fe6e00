/** Keys for those who do not reach for the mouse. They rest while something is typed. */

import { button, byId, make } from "./dom.js";

/** The dialog with all keys, and what they do. */
export class Keys {
  /**
   * @param {object} acts by key, `{text, act}`
   */
  constructor(acts) {
    this.acts = acts;
    document.addEventListener("keydown", (event) => this.#pressed(event));
    byId("help").addEventListener("click", () => this.show());
  }

  #pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const types = event.target.closest("input:not([type=checkbox]), textarea, select, [role=tab]");
    const presses = event.target.closest("button, summary, a") && [" ", "Enter"].includes(event.key);
    if (types || presses) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const found = this.acts.find(({ keys }) => keys.includes(key));
    if (!found) return;
    event.preventDefault();
    found.act(event);
  }

  show() {
    const dialog = byId("keys");
    const rows = this.acts.flatMap(({ name, text }) => [
      make("dt", {}, ...name.split(" ").flatMap((key) => [make("kbd", {}, key), " "])),
      make("dd", {}, text),
    ]);
    const close = button("Close", () => dialog.close(), { className: "ghost" });
    const head = make("div", { className: "dialog-head" }, make("h2", { id: "keys-title" }, "Keys"), close);
    dialog.replaceChildren(head, make("dl", { className: "keys" }, ...rows));
    dialog.showModal();
  }
}

/** Arrow keys between tabs, as screen readers expect them. */
export function tabs(list) {
  const all = [...list.querySelectorAll("[role=tab]")];
  const choose = (tab, focus) => {
    for (const other of all) {
      const chosen = other === tab;
      other.setAttribute("aria-selected", String(chosen));
      other.tabIndex = chosen ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest("[role=tab]");
    if (tab) choose(tab, false);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const place = all.indexOf(document.activeElement);
    choose(all[(place + step + all.length) % all.length], true);
  });
  return (id) => choose(byId(id), false);
}
