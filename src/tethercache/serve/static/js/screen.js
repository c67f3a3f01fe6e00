/** The screen: the buttons below the picture, and what is said over it. */

import { byId, icon, write } from "./dom.js";
import { clock, span, times } from "./words.js";

const BUTTONS = { "to-start": "start", back: "back", forth: "forth", "to-end": "end", full: "full" };

export class Screen {
  /** @param {import("./studio.js").Studio} studio */
  constructor(studio) {
    this.studio = studio;
    this.player = studio.player;
    for (const [id, picture] of Object.entries(BUTTONS)) byId(id).append(icon(picture));
    this.icons = { play: icon("play"), pause: icon("pause") };
    byId("play").append(this.icons.play);
    const on = (id, act) => byId(id).addEventListener("click", act);
    on("play", () => this.player.toggle());
    on("back", () => this.player.step(-1));
    on("forth", () => this.player.step(1));
    on("to-start", () => this.player.seek(0));
    on("to-end", () => this.toNewest());
    on("full", () => this.toggleFull());
    on("halt", () => studio.make(studio.take.video.paused ? "resume" : "pause"));
    on("stop", () => studio.make("stop"));
    on("grain", () => this.toggleGrain());
    byId("video").addEventListener("click", () => this.player.toggle());
    this.player.addEventListener("time", () => this.#show());
    studio.addEventListener("take", () => this.#show());
    studio.addEventListener("change", () => this.#show());
  }

  toNewest() {
    const { take } = this.studio;
    if (take) this.player.seek(take.made - (take.isOver ? 1 : 2) / take.fps);
  }

  toggleFull() {
    if (document.fullscreenElement) document.exitFullscreen();
    else byId("screen").requestFullscreen?.().catch(() => {});
  }

  toggleGrain() {
    const pixels = byId("screen").dataset.grain !== "pixels";
    byId("screen").dataset.grain = pixels ? "pixels" : "";
    byId("grain").setAttribute("aria-pressed", String(pixels));
  }

  #show() {
    const { take } = this.studio;
    const { state, time } = this.player;
    byId("screen").dataset.state = take ? state : "empty";
    const moving = this.player.wanted && state !== "ended" && Boolean(take);
    const button = byId("play");
    if (button.dataset.shows !== (moving ? "pause" : "play")) {
      button.dataset.shows = moving ? "pause" : "play";
      button.replaceChildren(this.icons[button.dataset.shows]);
      button.setAttribute("aria-label", moving ? "Pause" : "Play");
    }
    write(byId("now"), clock(time));
    write(byId("whole"), clock(take?.total ?? 0));
    write(byId("frame"), take ? `frame ${Math.min(this.player.frame, take.video.num_frames ?? 1e9)}` : "");
    this.#caption(take, time);
    this.#pace(take, state);
    byId("halt").hidden = byId("stop").hidden = !take || take.isOver || take.video.status === "queued";
    write(byId("halt"), take?.video.paused ? "Go on making" : "Pause making");
  }

  #caption(take, time) {
    byId("caption").hidden = !take;
    if (take) write(byId("caption"), take.promptAt(time));
  }

  /** How far what is made is ahead of what is shown, and how fast it is made. */
  #pace(take, state) {
    const [kind, text] = take ? this.#status(take, state) : ["", ""];
    const pill = byId("pill");
    pill.hidden = !text;
    pill.dataset.kind = kind;
    write(pill.lastElementChild, text);
    write(byId("pace"), take ? this.#speed(take) : "");
  }

  #status(take, state) {
    const ahead = Math.max(0, take.made - this.player.time);
    const { status, position, paused } = take.video;
    if (status === "failed") return ["halted", "It failed; what was made is kept"];
    if (status === "queued") {
      return ["waiting", position > 0 ? `In the queue, ${position} before it` : "Beginning"];
    }
    if (status === "completed") return state === "empty" ? ["", ""] : ["done", "Finished"];
    if (paused) return ["halted", `Making is paused · ${span(ahead)} ahead`];
    if (state === "waiting" || state === "loading") {
      return ["waiting", take.made ? "Waiting for the next frames" : "Making the first frames"];
    }
    return ["making", `Making · ${span(ahead)} ahead`];
  }

  #speed(take) {
    const rate = take.rate;
    if (take.isOver || !rate || take.video.status !== "in_progress") return "";
    const left = (take.total - take.made) / rate;
    const base = `made at ${times(rate)} real time, done in ${span(left)}`;
    const wait = left - (take.total - this.player.time);
    return wait > 0.5 ? `${base}, plays through in ${span(wait)}` : base;
  }
}
