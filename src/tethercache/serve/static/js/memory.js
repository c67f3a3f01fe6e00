/** The memory view: which frames the chunk under the playhead could see, and why they are there. */

import { button, byId, make, refill } from "./dom.js";
import { pixelFrame } from "./take.js";
import { clock, count } from "./words.js";

const PARTS = {
  sink: "the first frames, which never leave",
  memory: "recalled from far back",
  recent: "the newest frames, its own included",
};

export class Memory {
  /** @param {import("./studio.js").Studio} studio */
  constructor(studio) {
    this.studio = studio;
    this.panel = byId("panel-memory");
    this.chosen = null;
    const soon = () => (this.due ??= requestAnimationFrame(() => this.#show()));
    studio.addEventListener("take", soon);
    studio.addEventListener("change", soon);
    studio.player.addEventListener("time", soon);
    this.#show();
  }

  #show() {
    this.due = null;
    const { take, player } = this.studio;
    const chunk = take?.chunks[take.chunkAt(player.time)];
    const state = JSON.stringify([take?.id, chunk?.index, chunk?.epoch, this.chosen, take?.isOver]);
    if (state === this.state) return;
    this.state = state;
    refill(this.panel, ...(chunk ? this.#told(take, chunk) : [this.#nothing()]));
  }

  #nothing() {
    const text = "While a video is made, this shows which of its frames the model still sees: those that never leave, those it has recalled, and the newest ones.";
    return make("p", { className: "nothing" }, text);
  }

  #told(take, chunk) {
    const when = `${clock(chunk.start / take.fps)} to ${clock(chunk.stop / take.fps)}`;
    const head = make(
      "div",
      { className: "memory-head" },
      make("h2", {}, `What chunk ${chunk.index + 1} remembers`),
      make("p", { className: "note" }, when),
    );
    if (!chunk.memory) {
      const text = "What this chunk remembered was not observed.";
      return [head, make("p", { className: "nothing" }, text)];
    }
    const parts = Object.keys(PARTS).map((role) => this.#part(take, chunk, role));
    return [head, this.#detail(take, chunk), ...parts];
  }

  #part(take, { memory }, role) {
    const frames = memory.frames.filter((held) => held.role === role);
    if (!frames.length) return null;
    const title = make("h3", {}, role, make("small", {}, `${frames.length}, ${PARTS[role]}`));
    const list = make("ul", { className: "held" }, ...frames.map((held) => make("li", {}, this.#held(take, memory, held))));
    return make("section", { className: "part", data: { part: role } }, title, list);
  }

  #held(take, memory, held) {
    const frame = pixelFrame(held.frame);
    const share = make("i");
    share.style.width = `${100 * held.share}%`;
    const pinned = held.marks?.includes("pinned");
    const press = () => {
      this.chosen = this.chosen === held.frame ? null : held.frame;
      this.#show();
    };
    const shown = button("", press, {
      data: { key: `held-${held.frame}` },
      aria: { pressed: String(this.chosen === held.frame), label: this.#words(take, memory, held) },
    });
    shown.append(
      make("img", { className: "thumb", alt: "", loading: "lazy", src: take.picture(frame, 96) }),
      make("span", { className: "share" }, share),
      make("span", { className: "when" }, clock(frame / take.fps)),
    );
    if (pinned) shown.append(make("span", { className: "pinned" }, "P"));
    return shown;
  }

  #words(take, { layers }, { frame, role, share, score, marks }) {
    const held = Math.round(share * layers);
    const parts = [`${clock(pixelFrame(frame) / take.fps)}, ${role}`, `${held} of ${count(layers, "layer")}`];
    if (score !== null) parts.push(`score ${score.toFixed(3)}`);
    return [...parts, ...(marks ?? [])].join(", ");
  }

  /** The frame that was chosen, in words, and what can be done with it. */
  #detail(take, { memory }) {
    const held = memory.frames.find(({ frame }) => frame === this.chosen);
    if (!held) {
      const text = "The bar under a frame is the share of layers that hold it. Press one for its score.";
      return make("div", { className: "told" }, make("p", {}, text));
    }
    const frame = pixelFrame(held.frame);
    const [start, stop] = [frame / take.fps, (frame + (held.frame ? 4 : 1)) / take.fps];
    const tools = [button("Go there", () => this.studio.player.seek(start + 0.01), { className: "small", data: { key: "go" } })];
    if (!take.isOver) {
      for (const [kind, text] of [["pin", "Pin"], ["forget", "Forget"]]) {
        const press = () => this.studio.mark(kind, start, stop);
        tools.push(button(text, press, { className: "small", data: { key: kind } }));
      }
    }
    const words = `Frame at ${this.#words(take, memory, held)}`;
    return make("div", { className: "told", data: { part: held.role } }, make("p", {}, words), ...tools);
  }
}
