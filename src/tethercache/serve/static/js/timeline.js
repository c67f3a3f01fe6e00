/**
 * The timeline: look at any second, go back, take another way from there, pin, forget.
 *
 * Moving the playhead shows a second. The grip at the end of what is made, moved back, rewinds.
 * Moving over the frames selects a span. All of it works by keys, too.
 */

import { button, byId, icon, make, refill, write } from "./dom.js";
import { ROWS, badness, colours, draw } from "./drawing.js";
import { Pictures } from "./pictures.js";
import { chooseBranch, confirmRewind } from "./questions.js";
import { clock, span } from "./words.js";

const FRAMES = ROWS.ruler + ROWS.tethers;

export class Timeline {
  /** @param {import("./studio.js").Studio} studio */
  constructor(studio) {
    this.studio = studio;
    this.player = studio.player;
    this.zoom = 1;
    this.span = null;
    this.scroller = byId("scroller");
    this.track = byId("track");
    this.canvas = byId("canvas");
    this.pictures = new Pictures(() => this.#soon());
    this.colours = colours();
    byId("zoom-in").append(icon("plus"));
    byId("zoom-out").append(icon("minus"));
    this.#listen();
  }

  #listen() {
    const on = (id, act) => byId(id).addEventListener("click", act);
    on("zoom-in", () => this.magnify(2));
    on("zoom-out", () => this.magnify(0.5));
    on("zoom-fit", () => this.magnify(0));
    on("branch", () => chooseBranch(this.studio, this.player.time));
    on("rewind", () => this.rewind(this.player.time));
    on("mark-in", () => this.markIn());
    on("mark-out", () => this.markOut());
    on("pin", () => this.#mark("pin"));
    on("forget", () => this.#mark("forget"));
    const soon = () => this.#soon();
    this.player.addEventListener("time", () => this.#moved());
    this.studio.addEventListener("take", () => this.#other());
    this.studio.addEventListener("change", soon);
    this.scroller.addEventListener("scroll", soon);
    new ResizeObserver(soon).observe(this.scroller);
    document.addEventListener("theme", () => {
      this.colours = colours();
      soon();
    });
    this.track.addEventListener("pointerdown", (event) => this.#press(event));
    byId("playhead").addEventListener("keydown", (event) => this.#seekByKey(event));
    byId("grip").addEventListener("keydown", (event) => this.#rewindByKey(event));
  }

  // Where things are

  get take() {
    return this.studio.take;
  }

  get total() {
    return Math.max(this.take?.total ?? 0, 1);
  }

  get #width() {
    return this.scroller.clientWidth;
  }

  /** Pixels a second. */
  get scale() {
    return (this.#width * this.zoom) / this.total;
  }

  /** Show more or less time; 0: all. */
  magnify(factor) {
    const most = Math.max(1, (this.total * 90) / Math.max(1, this.#width));
    this.zoom = factor ? Math.min(most, Math.max(1, this.zoom * factor)) : 1;
    this.#draw();
    this.scroller.scrollLeft = this.player.time * this.scale - this.#width / 2;
  }

  #second(event) {
    const { left } = this.track.getBoundingClientRect();
    return Math.min(Math.max(0, (event.clientX - left) / this.scale), this.take?.made ?? 0);
  }

  // Drawing

  #other() {
    this.span = null;
    this.zoom = 1;
    this.#soon();
  }

  #soon() {
    this.due ??= requestAnimationFrame(() => this.#draw());
  }

  #moved() {
    const { time } = this.player;
    if (time === this.shown) return;
    this.shown = time;
    if (this.zoom > 1 && this.player.wanted) {
      const at = time * this.scale - this.scroller.scrollLeft;
      if (at < 0 || at > this.#width - 20) this.scroller.scrollLeft += at - this.#width * 0.2;
    }
    this.#soon();
  }

  #draw() {
    this.due = null;
    const { canvas, take, track } = this;
    const width = this.#width;
    const height = track.clientHeight;
    const dense = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
      canvas.width = Math.round(width * dense);
      canvas.height = Math.round(height * dense);
      canvas.style.width = `${width}px`;
      canvas.style.height = `${height}px`;
    }
    track.style.width = `${width * this.zoom}px`;
    const context = canvas.getContext("2d");
    context.setTransform(dense, 0, 0, dense, 0, 0);
    draw(context, this.#view(width), take);
    this.#place();
    this.#label();
    this.#marks();
  }

  #view(width) {
    return {
      width,
      left: this.scroller.scrollLeft,
      scale: this.scale,
      colours: this.colours,
      pictures: this.pictures,
      now: this.player.time,
      thresholds: this.studio.info.thresholds,
    };
  }

  #place() {
    const { take, player } = this;
    const [playhead, grip, chosen] = [byId("playhead"), byId("grip"), byId("span")];
    playhead.style.left = `${player.time * this.scale}px`;
    playhead.setAttribute("aria-valuemax", (take?.made ?? 0).toFixed(2));
    playhead.setAttribute("aria-valuenow", player.time.toFixed(2));
    playhead.setAttribute("aria-valuetext", `${clock(player.time)}, frame ${player.frame}`);
    const end = this.dragged ?? take?.made ?? 0;
    grip.hidden = !take || take.isOver || !take.made;
    grip.classList.toggle("dragged", this.dragged !== undefined);
    grip.style.left = `${end * this.scale}px`;
    grip.setAttribute("aria-valuemin", "0");
    grip.setAttribute("aria-valuemax", (take?.made ?? 0).toFixed(2));
    grip.setAttribute("aria-valuenow", end.toFixed(2));
    grip.setAttribute("aria-valuetext", clock(end));
    chosen.hidden = !this.span;
    if (this.span) {
      chosen.style.left = `${this.span.start * this.scale}px`;
      chosen.style.width = `${Math.max(2, (this.span.stop - this.span.start) * this.scale)}px`;
    }
  }

  /** What can be done here, and with what. */
  #label() {
    const { take, span: chosen } = this;
    const steers = Boolean(take && !take.isOver && take.made);
    byId("branch").disabled = !take?.made;
    byId("rewind").disabled = !steers;
    byId("mark-in").disabled = byId("mark-out").disabled = !steers;
    byId("pin").disabled = byId("forget").disabled = !steers || !chosen;
    const range = chosen ? `${clock(chosen.start)} to ${clock(chosen.stop)} is selected` : "";
    write(byId("span-note"), range || (steers ? "Drag over the frames to select a span" : ""));
    write(byId("timeline-note"), take?.made ? this.#told(take) : "Nothing is made yet");
  }

  #told(take) {
    const chunk = take.chunks[take.chunkAt(this.player.time)];
    if (!chunk) return "";
    const worst = badness(chunk.drift, this.studio.info.thresholds);
    const drift = worst
      ? ` · ${chunk.drift.word}, most by ${worst.metric.replaceAll("_", " ")} ${worst.value.toFixed(2)}`
      : "";
    return `Chunk ${chunk.index + 1} of ${take.video.num_chunks ?? "?"}, made in ${span(chunk.wall)}${drift}`;
  }

  #marks() {
    const { take } = this;
    const prompts = take?.prompts ?? [];
    const reactions = take?.reactions ?? [];
    const state = JSON.stringify([this.scale, prompts, reactions]);
    if (state !== this.marked) {
      this.marked = state;
      refill(
        byId("marks"),
        ...prompts.map((prompt, place) => this.#prompt(prompt, place)),
        ...reactions.map((reaction, place) => this.#reaction(reaction, place)),
      );
    }
    const now = this.player.time + 1e-3;
    for (const mark of byId("marks").querySelectorAll(".prompt")) {
      const [from, to] = [Number(mark.dataset.from), Number(mark.dataset.to)];
      mark.dataset.now = String(from <= now && now < to);
    }
  }

  #prompt({ from, to, text, how, status }, place) {
    const said = {
      first: "",
      applied: `${how} at ${clock(from)}`,
      planned: `${how}, planned at ${clock(from)}`,
      queued: "queued",
    }[status];
    const mark = button("", () => this.player.seek(from + 0.01), {
      className: "mark prompt",
      title: said ? `${text} (${said})` : text,
      data: { status, from, to, key: `prompt-${place}` },
      aria: { label: `Prompt from ${clock(from)}${said ? `, ${said}` : ""}: ${text}` },
    });
    mark.append(said && make("i", {}, status === "queued" ? "queued" : how), make("span", {}, text));
    mark.style.left = `${from * this.scale + 1}px`;
    mark.style.width = `${Math.max(status === "queued" ? 90 : 14, (to - from) * this.scale - 3)}px`;
    return mark;
  }

  #reaction({ second, text }, place) {
    const mark = button("!", () => this.player.seek(second), {
      className: "mark guard",
      title: text,
      data: { key: `guard-${place}` },
      aria: { label: `The guard, at ${clock(second)}: ${text}` },
    });
    mark.style.left = `${second * this.scale}px`;
    return mark;
  }

  // Doing

  rewind(second) {
    const { take } = this;
    if (take && !take.isOver) confirmRewind(this.studio, second);
  }

  markIn() {
    const start = this.player.time;
    const stop = Math.max(this.span?.stop ?? this.take.made, start + 1 / this.take.fps);
    this.#select(start, Math.min(stop, this.take.made));
  }

  markOut() {
    const stop = this.player.time;
    this.#select(Math.min(this.span?.start ?? 0, stop - 1 / this.take.fps), stop);
  }

  #select(start, stop) {
    this.span = stop - start > 0.02 ? { start: Math.max(0, start), stop } : null;
    this.#soon();
  }

  #mark(kind) {
    const round = (second) => Math.round(second * this.take.fps) / this.take.fps;
    this.studio.mark(kind, round(this.span.start), round(this.span.stop));
    this.#select(0, 0);
  }

  #press(event) {
    if (!this.take || event.button || event.target.closest(".mark")) return;
    const { top } = this.track.getBoundingClientRect();
    const row = event.clientY - top;
    if (event.target.closest("#grip")) this.#drag(event, (at) => this.#dragEnd(at));
    else if (event.target.closest("#playhead")) this.#drag(event, (at) => this.player.seek(at));
    else if (row >= FRAMES && row < FRAMES + ROWS.frames && !this.take.isOver) this.#dragSpan(event);
    else {
      this.player.seek(this.#second(event));
      this.#drag(event, (at) => this.player.seek(at));
    }
  }

  /** Follow the pointer until it is let go. */
  #drag(event, move, done = () => {}) {
    event.preventDefault();
    const moved = (other) => move(this.#second(other), other);
    const ended = () => {
      removeEventListener("pointermove", moved);
      removeEventListener("pointerup", ended);
      removeEventListener("pointercancel", ended);
      done();
      if (this.dragged !== undefined) {
        const second = this.dragged;
        this.dragged = undefined;
        this.#soon();
        if (second < this.take.made - 0.05) this.rewind(second);
      }
    };
    addEventListener("pointermove", moved);
    addEventListener("pointerup", ended);
    addEventListener("pointercancel", ended);
  }

  #dragEnd(second) {
    this.dragged = second;
    this.player.seek(Math.min(second, this.take.made - 1 / this.take.fps));
    this.#soon();
  }

  /** A span; where the pointer does not move, a second. */
  #dragSpan(event) {
    const from = this.#second(event);
    let selects = false;
    this.#drag(
      event,
      (to) => {
        selects ||= Math.abs(to - from) * this.scale > 4;
        if (selects) this.#select(Math.min(from, to), Math.max(from, to));
      },
      () => {
        if (selects) return;
        this.#select(0, 0);
        this.player.seek(from);
      },
    );
  }

  #step(event) {
    const { fps } = this.take;
    const frame = event.shiftKey ? 1 : 1 / fps;
    const steps = { ArrowLeft: -frame, ArrowDown: -frame, ArrowRight: frame, ArrowUp: frame };
    return { ...steps, PageDown: -5, PageUp: 5, Home: -Infinity, End: Infinity }[event.key];
  }

  #seekByKey(event) {
    const step = this.take && this.#step(event);
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const newest = this.take.made - 1 / this.take.fps;
    this.player.seek(Math.min(newest, Math.max(0, this.player.time + step)));
  }

  #rewindByKey(event) {
    if (!this.take) return;
    if (event.key === "Enter" && this.dragged !== undefined) {
      const second = this.dragged;
      this.dragged = undefined;
      this.rewind(second);
    } else if (event.key === "Escape") {
      this.dragged = undefined;
    } else {
      const step = this.#step(event);
      if (!step) return;
      const end = (this.dragged ?? this.take.made) + step;
      this.#dragEnd(Math.min(this.take.made, Math.max(0, end)));
    }
    event.preventDefault();
    event.stopPropagation();
    this.#soon();
  }
}
