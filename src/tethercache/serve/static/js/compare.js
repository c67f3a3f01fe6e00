/** Two takes with one clock: side by side, one over the other, or only what differs. */

import { at } from "./api.js";
import { button, byId, make, write } from "./dom.js";
import { clock } from "./words.js";

/** Seconds that two pictures may be apart; more than a few of these: one jumps. */
const APART = 0.03;

const MODES = { side: "Side by side", wipe: "Wipe", difference: "Difference" };

/** The dialog; `open` shows two videos of the server. */
export class Compare {
  constructor() {
    this.dialog = byId("compare");
    this.dialog.addEventListener("close", () => this.#end());
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
  }

  /** @param {object[]} pair two videos; where one is a branch of the other, it comes second */
  open(pair) {
    const [first, second] = pair[0].parent?.video === pair[1].id ? [pair[1], pair[0]] : pair;
    this.fps = first.fps || 16;
    this.videos = [first, second].map((video) => this.#video(video));
    const figures = [first, second].map((video, i) =>
      make("figure", {}, this.videos[i], make("figcaption", {}, this.#caption(video, "AB"[i]))),
    );
    this.pair = make("div", { className: "pair", data: { mode: "side" } }, ...figures);
    const title = make("h2", { id: "compare-title" }, "Two takes, one clock");
    const close = button("Close", () => this.dialog.close(), { className: "ghost" });
    const head = make("div", { className: "dialog-head" }, title, this.#modes(), close);
    this.dialog.replaceChildren(head, this.pair, this.#tools(second));
    this.dialog.showModal();
    this.playing = true;
    const start = second.parent?.video === first.id ? Math.max(0, second.parent.at - 1) : 0;
    this.seek(start);
    const tick = () => {
      if (!this.dialog.open) return;
      this.#keep();
      requestAnimationFrame(tick);
    };
    tick();
  }

  #video({ id }) {
    const video = make("video", { muted: true, playsInline: true, preload: "auto", src: at(id, "/content") });
    video.addEventListener("loadedmetadata", () => this.#measure());
    return video;
  }

  #caption(video, letter) {
    const left = video.parent ? `, left at ${clock(video.parent.at)}` : "";
    return `${letter}  ${video.prompt} (seed ${video.seed}${left})`;
  }

  #modes() {
    const inputs = Object.entries(MODES).map(([mode, text]) => {
      const input = make("input", { type: "radio", name: "mode", value: mode, checked: mode === "side" });
      input.addEventListener("change", () => {
        this.pair.dataset.mode = mode;
        this.wipe.hidden = mode !== "wipe";
      });
      return make("label", {}, input, make("span", {}, text));
    });
    return make("fieldset", { className: "segments" }, make("legend", {}, "How they are shown"), ...inputs);
  }

  #tools(second) {
    this.button = button("Pause", () => this.toggle(), { className: "primary" });
    this.slider = make("input", { type: "range", min: 0, max: 1, step: 0.001, value: 0, aria: { label: "Place in both takes" } });
    this.slider.addEventListener("input", () => this.seek(Number(this.slider.value)));
    this.wipe = make("input", { type: "range", min: 0, max: 100, value: 50, hidden: true, aria: { label: "Where A ends and B begins" } });
    this.wipe.addEventListener("input", () => this.pair.style.setProperty("--wipe", `${this.wipe.value}%`));
    this.clock = make("p", { className: "clock" });
    const step = (frames, label, text) => button(text, () => this.step(frames), { aria: { label } });
    const leave = second.parent && button("Where they part", () => this.seek(second.parent.at));
    return make(
      "div",
      { className: "pair-tools" },
      this.button,
      step(-1, "One frame back", "−1"),
      step(1, "One frame on", "+1"),
      this.slider,
      this.clock,
      leave,
      this.wipe,
    );
  }

  #measure() {
    const ends = this.videos.map(({ duration }) => duration).filter(Number.isFinite);
    this.end = Math.min(...ends);
    this.slider.max = this.end || 1;
    const [{ videoWidth, videoHeight }] = this.videos;
    if (videoWidth) this.pair.style.setProperty("--ratio", videoWidth / videoHeight);
  }

  get time() {
    return this.videos[0].currentTime;
  }

  seek(second) {
    for (const video of this.videos) video.currentTime = Math.max(0, second);
  }

  step(frames) {
    this.playing = false;
    this.seek((Math.floor(this.time * this.fps + 1e-3) + frames + 0.5) / this.fps);
  }

  toggle() {
    this.playing = !this.playing;
    if (this.playing && this.time > this.end - 0.1) this.seek(0);
  }

  /** The first video is the clock; the second follows, a little faster or slower. */
  #keep() {
    const [first, second] = this.videos;
    if (this.playing && this.end && this.time >= this.end - 1 / this.fps) this.playing = false;
    const ready = this.videos.every((video) => video.readyState >= 3 && !video.seeking);
    for (const video of this.videos) {
      if (this.playing && ready && video.paused) video.play().catch(() => {});
      else if ((!this.playing || !ready) && !video.paused && !video.seeking) video.pause();
    }
    const apart = second.currentTime - first.currentTime;
    if (ready && Math.abs(apart) > 8 * APART) second.currentTime = first.currentTime;
    second.playbackRate = Math.abs(apart) > APART ? 1 - Math.sign(apart) * 0.08 : 1;
    if (!this.playing && ready && Math.abs(apart) > 0.5 / this.fps) second.currentTime = first.currentTime;
    if (document.activeElement !== this.slider) this.slider.value = this.time;
    write(this.clock, `${clock(this.time)} / ${clock(this.end || 0)}`);
    write(this.button, this.playing ? "Pause" : "Play");
  }

  #key(event) {
    if (event.target.matches("input, button")) return;
    const acts = { " ": () => this.toggle(), ArrowLeft: () => this.step(-1), ArrowRight: () => this.step(1) };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  }

  #end() {
    for (const video of this.videos) {
      video.removeAttribute("src");
      video.load();
    }
    this.dialog.replaceChildren();
  }
}
