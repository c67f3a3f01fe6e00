/** Questions that are asked before something cannot be taken back, or needs more words. */

import { button, byId, make } from "./dom.js";
import { clock, span } from "./words.js";

/**
 * Ask something in a dialog.
 *
 * @param {string} title
 * @param {Node[]} content of the form
 * @param {string} yes text of the button that does it
 * @param {(form: HTMLFormElement) => void} act is called when it is pressed
 */
function ask(title, content, yes, act) {
  const dialog = byId("ask");
  const heading = make("h2", { id: "ask-title" }, title);
  const buttons = make(
    "div",
    { className: "submit" },
    button("Cancel", () => dialog.close()),
    make("button", { type: "submit", className: "primary" }, yes),
  );
  const form = make("form", { className: "ask", method: "dialog" }, heading, ...content, buttons);
  form.addEventListener("submit", () => act(form));
  dialog.replaceChildren(form);
  dialog.showModal();
}

/** Where a chunk begins at or before a second: what a border is. */
function border(take, second) {
  const chunk = take.chunks[take.chunkAt(second)];
  return chunk ? chunk.start / take.fps : 0;
}

/** Rewind, when it is certain. */
export function confirmRewind(studio, second) {
  const { take } = studio;
  const to = border(take, second);
  const text = `It goes on from ${clock(to)}, where a chunk begins. The ${span(take.made - to)} behind that are made anew. To keep them, branch instead.`;
  ask(`Rewind to ${clock(to)}?`, [make("p", {}, text)], "Rewind", () => studio.rewind(second));
}

/** Another future: with another prompt, another seed, or both. */
export function chooseBranch(studio, second) {
  const { take } = studio;
  const from = border(take, second);
  const field = (text, control) => make("div", { className: "field" }, make("label", { htmlFor: control.id }, text), control);
  const prompt = make("textarea", { id: "branch-prompt", rows: 2, value: take.promptAt(from) });
  const seed = make("input", {
    id: "branch-seed",
    type: "number",
    step: 1,
    value: (Number(take.video.seed) || 0) + 1 + (take.video.branches?.length ?? 0),
  });
  const note = make("p", { className: "note" }, "This video goes on as it is. The new take shares all before this moment.");
  const content = [field("What it shows from here on", prompt), field("Seed from here on", seed), note];
  ask(`Another take from ${clock(from)}`, content, "Branch", () => {
    const text = prompt.value.trim();
    const changed = text && text !== take.promptAt(from);
    const what = { ...(changed && { prompt: text, how: "soft" }), seed: Number(seed.value) };
    studio.branch(second, what).catch((error) => {
      studio.dispatchEvent(Object.assign(new Event("trouble"), { error }));
    });
  });
}

/** The token that the server was started with. */
export function askToken(give) {
  const token = make("input", { id: "token", type: "password", autocomplete: "current-password" });
  const label = make("label", { htmlFor: "token" }, "It is the text behind --token where the server was started.");
  const field = make("div", { className: "field" }, label, token);
  ask("This server wants a token", [field], "Go on", () => give(token.value));
}
