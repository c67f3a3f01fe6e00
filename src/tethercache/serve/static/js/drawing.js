/** What the canvas of the timeline shows: ruler, tethers to what is remembered, frames, drift. */

import { pixelFrame } from "./take.js";
import { clock } from "./words.js";

/** Heights of the rows; those of css/timeline.css. */
export const ROWS = { ruler: 22, tethers: 54, frames: 52, prompts: 34, drift: 56 };

const STEPS = [0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200];
const NAMES = [
  "ink", "soft", "line", "edge", "well", "card", "accent", "sink", "memory", "recent", "bad", "screen",
];

/** The colours of the page, as the canvas needs them. */
export function colours() {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(NAMES.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
}

/**
 * Draw the part of a timeline that can be seen.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {object} view `width` and `left` in pixels, `scale` in pixels a second, `colours`,
 *     `pictures`, `now` in seconds, `thresholds` of the drift
 * @param {import("./take.js").Take} take
 */
export function draw(context, view, take) {
  context.clearRect(0, 0, view.width, 400);
  const x = (second) => second * view.scale - view.left;
  const top = { tethers: ROWS.ruler };
  top.frames = top.tethers + ROWS.tethers;
  top.prompts = top.frames + ROWS.frames;
  top.drift = top.prompts + ROWS.prompts;
  const here = { context, view, take, x, top };
  drawRuler(here);
  if (!take) return;
  drawFrames(here);
  drawSpans(here);
  drawTethers(here);
  drawDrift(here);
}

function drawRuler({ context, view, take, x }) {
  const step = STEPS.find((seconds) => seconds * view.scale >= 64) ?? STEPS.at(-1);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = view.colours.soft;
  const last = Math.min((view.left + view.width) / view.scale, take?.total ?? Infinity);
  for (let at = Math.floor(view.left / view.scale / step) * step; at <= last; at += step) {
    const text = step < 1 ? clock(at) : clock(at).slice(0, -2);
    context.fillRect(Math.round(x(at)), ROWS.ruler - 5, 1, 5);
    const room = x(at) + 4 + context.measureText(text).width < view.width;
    if (room) context.fillText(text, Math.round(x(at)) + 4, 14);
  }
}

function drawFrames({ context, view, take, x, top }) {
  const { colours: colour } = view;
  const [y, height] = [top.frames, ROWS.frames];
  context.fillStyle = colour.line;
  context.fillRect(x(0), y + height / 2 - 1, x(take.total) - x(0), 2);
  const first = Math.max(0, take.chunkAt(Math.max(0, view.left / view.scale)));
  const width = (12 / take.fps) * view.scale;
  const every = Math.max(1, Math.ceil(height / width));
  for (let i = first - (first % every); i < take.chunks.length; i += every) {
    const chunk = take.chunks[i];
    const end = take.chunks[Math.min(i + every, take.chunks.length) - 1];
    const [from, to] = [x(chunk.start / take.fps), x(end.stop / take.fps)];
    if (from > view.width) break;
    drawCell(here(context, view, from, to, y, height), take.picture(chunk.start, 96));
  }
}

const here = (context, view, from, to, y, height) => ({ context, view, from, to, y, height });

/** One cell of the strip: the picture of its first frame, as often as there is room. */
function drawCell({ context, view, from, to, y, height }, url) {
  const image = view.pictures.get(url);
  context.save();
  context.beginPath();
  context.roundRect(from + 0.5, y, Math.max(1, to - from - 1), height, 3);
  context.clip();
  context.fillStyle = view.colours.edge;
  context.fillRect(from, y, to - from, height);
  if (image) {
    const width = (image.naturalWidth / image.naturalHeight) * height;
    for (let at = from; at < to; at += width) context.drawImage(image, at, y, width, height);
  }
  context.restore();
}

function drawSpans({ context, view, take, x, top }) {
  for (const { kind, start, stop, queued } of take.spans) {
    const [from, to] = [x(start), x(stop)];
    context.save();
    context.globalAlpha = queued ? 0.5 : 1;
    if (kind === "pin") {
      context.fillStyle = view.colours.accent;
      context.fillRect(from, top.frames - 5, to - from, 4);
    } else {
      context.fillStyle = view.colours.well;
      context.globalAlpha *= 0.78;
      context.fillRect(from, top.frames, to - from, ROWS.frames);
      context.globalAlpha = queued ? 0.5 : 1;
      context.strokeStyle = view.colours.bad;
      context.lineWidth = 2;
      context.beginPath();
      context.moveTo(from, top.frames + ROWS.frames / 2);
      context.lineTo(to, top.frames + ROWS.frames / 2);
      context.stroke();
    }
    context.restore();
  }
}

/** Arcs from the chunk under the playhead to every frame that it remembers. */
function drawTethers({ context, view, take, x, top }) {
  const chunk = take.chunks[take.chunkAt(view.now)];
  if (!chunk?.memory) return;
  const base = top.frames - 2;
  const target = x((chunk.start + chunk.stop) / 2 / take.fps);
  for (const { frame, role, share } of chunk.memory.frames) {
    const from = x((pixelFrame(frame) + 2) / take.fps);
    const distance = Math.abs(target - from);
    if (distance < 2) continue;
    const rise = Math.min(ROWS.tethers - 6, 8 + distance * 0.22);
    context.strokeStyle = context.fillStyle = view.colours[role];
    context.globalAlpha = 0.2 + 0.8 * share;
    context.lineWidth = 0.6 + 1.2 * share;
    context.beginPath();
    context.moveTo(from, base);
    context.bezierCurveTo(from, base - rise * 1.3, target, base - rise * 1.3, target, base);
    context.stroke();
    context.beginPath();
    context.arc(from, base, 2.4, 0, 7);
    context.fill();
  }
  context.globalAlpha = 1;
}

/** How near the worst symptom is to its threshold: 1 is drift. */
export function badness(drift, thresholds) {
  if (!drift) return null;
  let worst = null;
  for (const { metric, drifting, falls } of thresholds) {
    const value = drift.changes?.[metric];
    if (value === null || value === undefined) continue;
    const share = falls ? drifting / Math.max(value, 1e-3) : Math.abs(value) / drifting;
    if (!worst || share > worst.share) worst = { metric, value, share };
  }
  return worst;
}

function drawDrift({ context, view, take, x, top }) {
  const { colours: colour } = view;
  const bottom = top.drift + ROWS.drift - 8;
  const height = ROWS.drift - 16;
  const y = (share) => bottom - Math.min(share, 1.5) / 1.5 * height;
  context.strokeStyle = colour.bad;
  context.setLineDash([3, 4]);
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(0, y(1));
  context.lineTo(view.width, y(1));
  context.stroke();
  context.setLineDash([]);
  const points = [];
  for (const chunk of take.chunks) {
    const worst = badness(chunk.drift, view.thresholds);
    if (worst) points.push([x(chunk.stop / take.fps), y(worst.share)]);
  }
  if (!points.length) return;
  context.beginPath();
  points.forEach(([a, b], i) => (i ? context.lineTo(a, b) : context.moveTo(a, b)));
  context.strokeStyle = colour.ink;
  context.lineWidth = 1.6;
  context.lineJoin = "round";
  context.stroke();
  context.lineTo(points.at(-1)[0], bottom);
  context.lineTo(points[0][0], bottom);
  context.closePath();
  context.fillStyle = colour.ink;
  context.globalAlpha = 0.08;
  context.fill();
  context.globalAlpha = 1;
}
