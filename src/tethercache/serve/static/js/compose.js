/** The form: what the video shows, how long it is, what remembers; and the prompt for what plays. */

import { button, byId, make, write } from "./dom.js";

/** Kinds of words in the grammar of the shipped model; the others are listed behind them. */
const KINDS = {
  colours: "red orange yellow green cyan blue purple pink",
  shapes: "ball box cube pyramid ring hoop sphere star triangle",
  motions: "rolling bouncing jumping orbiting circling drifting gliding floating hovering",
  places: "grass meadow sand desert beach water sea lake snow snowy field city brick wall",
  times: "noon daylight sunset evening night moonlight",
};

export class Compose {
  /** @param {import("./studio.js").Studio} studio */
  constructor(studio) {
    this.studio = studio;
    this.form = byId("compose");
    this.prompt = byId("prompt");
    this.form.addEventListener("submit", (event) => this.#submit(event));
    this.prompt.addEventListener("input", () => this.#checkWords());
    this.prompt.addEventListener("keydown", (event) => this.#sendByKey(event));
    byId("policy").addEventListener("change", () => this.#explainPolicy());
    byId("model").addEventListener("change", () => this.#showModel());
    byId("dice").addEventListener("click", () => {
      byId("seed").value = Math.floor(Math.random() * 10000);
    });
    studio.addEventListener("take", () => this.#follow());
    studio.addEventListener("change", () => this.#follow());
  }

  /** Fill in what the server can do. */
  fill() {
    const { models, policies, limits } = this.studio.info;
    byId("model").replaceChildren(...models.map(({ id }) => make("option", { value: id }, id)));
    byId("model-field").hidden = models.length < 2;
    const options = policies.map(({ name }) => make("option", { value: name }, name));
    byId("policy").replaceChildren(make("option", { value: "" }, "what suits the model"), ...options);
    if (limits.prompt) this.prompt.maxLength = limits.prompt;
    if (limits.seconds) byId("seconds").max = limits.seconds;
    this.#showModel();
  }

  get #model() {
    const { models } = this.studio.info;
    return models.find(({ id }) => id === byId("model").value) ?? models[0];
  }

  #showModel() {
    const model = this.#model;
    const { examples } = this.studio.info;
    if (!this.prompt.value) this.prompt.placeholder = examples[0] ?? "Describe the picture";
    const use = (text) => () => {
      this.prompt.value = text;
      this.prompt.focus();
      this.#checkWords();
    };
    byId("ideas").replaceChildren(...examples.slice(0, 4).map((text) => button(text, use(text))));
    this.words = new Set(model?.words ?? []);
    byId("vocabulary").hidden = !this.words.size;
    this.#listWords();
    this.#explainPolicy();
    this.#checkWords();
  }

  #listWords() {
    const left = new Set(this.words);
    const parts = [];
    for (const [kind, list] of Object.entries(KINDS)) {
      const known = list.split(" ").filter((word) => left.delete(word));
      if (known.length) parts.push(make("h3", {}, kind), ...known.map((word) => this.#word(word)));
    }
    const rest = [...left].sort().map((word) => this.#word(word));
    if (rest.length) parts.push(make("h3", {}, parts.length ? "all other words" : "words"), ...rest);
    byId("words").replaceChildren(...parts);
  }

  #word(word) {
    const add = () => {
      const { value, selectionStart, selectionEnd } = this.prompt;
      const [before, after] = [value.slice(0, selectionStart), value.slice(selectionEnd)];
      const gap = before && !before.endsWith(" ") ? " " : "";
      const tail = after.startsWith(" ") || !after ? "" : " ";
      this.prompt.value = `${before}${gap}${word}${tail}${after}`;
      const place = before.length + gap.length + word.length;
      this.prompt.setSelectionRange(place, place);
      this.#checkWords();
    };
    return button(word, add);
  }

  /** Say which words the model does not know, before it is asked. */
  #checkWords() {
    const note = byId("prompt-note");
    const words = this.prompt.value.toLowerCase().match(/[\p{L}\p{N}'-]+/gu) ?? [];
    const strange = this.words?.size ? [...new Set(words.filter((word) => !this.words.has(word)))] : [];
    note.dataset.kind = strange.length ? "warn" : "";
    const said = strange.map((word) => `“${word}”`).join(", ");
    write(note, strange.length ? `This model does not know ${said}.` : "");
    this.prompt.removeAttribute("aria-invalid");
  }

  #explainPolicy() {
    const { policies } = this.studio.info;
    const chosen = policies.find(({ name }) => name === (byId("policy").value || this.#model?.default_policy));
    write(byId("policy-note"), chosen ? chosen.summary : "");
    byId("policy-settings").placeholder = chosen?.settings || "none";
    byId("policy-settings").disabled = !byId("policy").value;
  }

  /** With a video that can be steered, the button by the prompt is for that. */
  #follow() {
    const { take } = this.studio;
    const live = Boolean(take && !take.isOver && take.made && take.made < take.total);
    byId("steer").hidden = byId("how").hidden = !live;
    byId("generate").classList.toggle("primary", !live);
    write(byId("generate"), live ? "New video" : "Generate");
    write(byId("compose-title"), live ? "Direct it" : "New video");
    byId("generate").disabled = false;
    if (live !== this.live) {
      byId("settings").open = !live;
      byId("ideas").hidden = live;
    }
    this.live = live;
  }

  #sendByKey(event) {
    const plain = event.key === "Enter" && !event.shiftKey && !event.isComposing;
    if (!plain) return;
    event.preventDefault();
    this.form.requestSubmit(this.live ? byId("steer") : byId("generate"));
  }

  #submit(event) {
    event.preventDefault();
    const text = this.prompt.value.trim() || (this.live ? "" : this.prompt.placeholder);
    if (!text) {
      this.prompt.setAttribute("aria-invalid", "true");
      write(byId("prompt-note"), "Say what it shows.");
      this.prompt.focus();
      return;
    }
    if (event.submitter?.value === "steer") {
      this.studio.steer(text, this.form.elements.how.value);
    } else {
      this.prompt.value = text;
      this.studio.start(this.#request(text));
    }
  }

  #request(prompt) {
    const [policy, settings] = [byId("policy").value, byId("policy-settings").value.trim()];
    const request = { prompt, seconds: Number(byId("seconds").value) };
    request.seed = Number(byId("seed").value || 0);
    if (this.studio.info.models.length > 1) request.model = byId("model").value;
    if (policy) request.policy = settings ? `${policy}:${settings.replaceAll(" ", "")}` : policy;
    if (byId("guard").checked) request.guard = true;
    return { ...request, watch_drift: true, trace: true };
  }

  /** Take prompt and seed of a video that is opened, for another one like it. */
  adopt({ prompt, seed, seconds }) {
    this.prompt.value = prompt;
    byId("seed").value = seed ?? 0;
    byId("seconds").value = Number(seconds);
    this.#checkWords();
  }
}
