"use strict";
// One trace: `data.chunks` are the lines of its file, each with `memory`, what `memory_of` says of it.
const $ = (id) => document.getElementById(id);
const MARKS = { pinned: "stays for as long as there is room", forgotten: "no pass sees it", aligned: "changed when it was recalled",
  merged: "holds what other frames showed", packed: "holds the best tokens of several frames" };
const WORDS = { sink: "sink", memory: "memory", recent: "recent" };
let data, state = { chunk: 0, layer: -1, frame: null, playing: 0 };

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const range = (stop) => [...Array(stop).keys()];
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const firstFrame = (latent) => latent && data.header.frames_per_latent * (latent - 1) + 1;
const second = (latent) => firstFrame(latent) / data.header.fps;
const clock = (s) => {
  const total = Math.round(s * 10) / 10, minutes = Math.floor(total / 60), rest = (total - 60 * minutes).toFixed(1);
  return minutes ? `${minutes}:${rest.padStart(4, "0")}` : `${rest} s`;
};
const when = (latent) => clock(second(latent));
const short = (x) => (x === null || x === undefined ? "–" : String(Number(x.toPrecision(4))));
const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

// What is remembered ---------------------------------------------------------------------------

function rolesOf(layer, chunk) {
  const changed = new Set([...(layer.marks.merged || []), ...(layer.marks.packed || [])]);
  const newest = Math.max(layer.seen.length - chunk.recent, chunk.sink);
  return new Map(layer.seen.map((frame, i) => [
    frame, i < chunk.sink ? "sink" : i < newest || changed.has(frame) ? "memory" : "recent"]));
}

const marksOf = (layer, frame) => Object.keys(layer.marks).filter((mark) => layer.marks[mark].includes(frame)).sort();

// Frames with role, share, score and marks: of all layers together, or of the chosen one.
function memoryOf(chunk, which = state.layer) {
  if (which < 0) return chunk.memory.frames;
  const layer = chunk.layers[which], roles = rolesOf(layer, chunk);
  return layer.seen.map((frame, i) => ({
    frame, role: roles.get(frame), share: 1, score: layer.scores[i], marks: marksOf(layer, frame) }));
}

function tone(each) {
  if (each.marks.includes("pinned")) return "pinned";
  return each.marks.includes("merged") || each.marks.includes("packed") ? "merged" : each.role;
}

const chosenLayers = (chunk) => (state.layer < 0 ? chunk.layers : [chunk.layers[state.layer]]);

function union(chunk, name) {
  const counts = new Map();
  for (const layer of chosenLayers(chunk)) for (const frame of layer[name]) counts.set(frame, (counts.get(frame) || 0) + 1);
  return [...counts].sort((a, b) => a[0] - b[0]);
}

// Pictures -------------------------------------------------------------------------------------

function picture(frame, wide, each = null) {
  const { pictures } = data, box = make("span", { class: "picture", role: "img", "aria-label": `frame ${frame}, ${when(frame)}` });
  const high = Math.round(wide * pictures.height / pictures.width);
  box.style.setProperty("--wide", `${wide}px`);
  box.style.setProperty("--high", `${high}px`);
  const index = pictures.places.get(frame);
  if (index !== undefined) {
    const place = index % (pictures.columns * pictures.rows), scale = wide / pictures.width;
    const [x, y] = [place % pictures.columns, Math.floor(place / pictures.columns)];
    box.classList.add(`sheet${Math.floor(index / (pictures.columns * pictures.rows))}`);
    box.style.backgroundSize = `${pictures.columns * pictures.width * scale}px auto`;
    box.style.backgroundPosition = `${-x * wide}px ${-y * pictures.height * scale}px`;
  }
  if (each && each.marks.length) {
    box.append(make("span", { class: "badges" }, ...each.marks.map((mark) => make("i", { class: mark, title: MARKS[mark] || mark }, mark === "aligned" ? "≈" : mark))));
  }
  return box;
}

function thumb(frame, wide, role, each, ...lines) {
  const chosen = state.frame === frame ? " chosen" : "", marks = each && each.marks.includes("forgotten") ? " forgotten" : "";
  return make("button", { class: `thumb ${role}${chosen}${marks}`, "--wide": `${wide}px`, "data-frame": frame,
    "aria-pressed": state.frame === frame, onclick: () => choose({ frame }) }, picture(frame, wide, each), ...lines);
}

// The map --------------------------------------------------------------------------------------

const plot = { left: 46, right: 10, top: 8, bottom: 26 };

function fit(canvas) {
  const box = canvas.getBoundingClientRect(), scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(box.width * scale);
  canvas.height = Math.round(box.height * scale);
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, box.width, box.height);
  return [context, box.width, box.height];
}

function places(width, height) {
  const { chunks } = data, frames = chunks[chunks.length - 1].stop - data.first;
  const wide = (width - plot.left - plot.right) / chunks.length, high = (height - plot.top - plot.bottom) / frames;
  return {
    wide, high, x: (index) => plot.left + index * wide,
    y: (frame) => height - plot.bottom - (frame - data.first + 1) * high, last: height - plot.bottom,
    chunk: (x) => Math.min(chunks.length - 1, Math.max(0, Math.floor((x - plot.left) / wide))),
    frame: (y) => data.first + Math.floor((height - plot.bottom - y) / high),
  };
}

function nice(seconds, most) {
  return [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1200, 3600].find((step) => seconds / step <= most) || 7200;
}

function drawMap() {
  const [context, width, height] = fit($("map-base")), at = places(width, height), { chunks } = data;
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = colour("soft");
  context.strokeStyle = colour("line");
  const to = second(chunks[chunks.length - 1].stop), across = at.wide * chunks.length, up = at.last - plot.top;
  for (const [from, size, draw] of [
    [second(chunks[0].start), across, (s, share) => {
      const x = plot.left + share * across;
      context.textAlign = "center";
      context.fillRect(x - 0.5, at.last, 1, 4);
      context.fillText(clock(s), Math.min(x, width - 18), height - 8);
    }],
    [second(data.first), up, (s, share) => {
      const y = at.last - share * up;
      context.textAlign = "right";
      context.beginPath();
      context.moveTo(plot.left, y);
      context.lineTo(width - plot.right, y);
      context.stroke();
      context.fillText(clock(s), plot.left - 6, y + 3);
    }]]) {
    const step = nice(to - from, Math.min(12, size / (size === across ? 70 : 36)));
    for (let s = Math.ceil(from / step) * step; s <= to; s += step) draw(s, (s - from) / (to - from));
  }
  const colours = Object.fromEntries(["sink", "memory", "recent", "merged", "pinned", "ink"].map((c) => [c, colour(c)]));
  const high = Math.max(at.high, 1.6);
  chunks.forEach((chunk, index) => {
    for (const each of memoryOf(chunk)) {
      const own = each.frame >= chunk.start;
      context.globalAlpha = own ? 1 : 0.18 + 0.82 * each.share;
      context.fillStyle = own ? colours.ink : colours[tone(each)];
      context.fillRect(at.x(index), at.y(each.frame) - (high - at.high) / 2, Math.max(at.wide - (at.wide > 4 ? 1 : 0), 0.6), high);
    }
    context.globalAlpha = 1;
    if (chunk.changes.length) {
      context.strokeStyle = colours.pinned;
      context.setLineDash([3, 3]);
      context.beginPath();
      context.moveTo(at.x(index), plot.top);
      context.lineTo(at.x(index), at.last);
      context.stroke();
      context.setLineDash([]);
    }
  });
  const which = state.layer < 0 ? "all layers" : `layer ${state.layer}`;
  $("map-base").setAttribute("aria-label",
    `Which frames ${which} could read while each of ${chunks.length} chunks was made. The sections below say it chunk by chunk.`);
}

function drawMark() {
  const [context, width, height] = fit($("map-mark")), at = places(width, height), x = at.x(state.chunk);
  context.fillStyle = colour("column");
  context.fillRect(x, plot.top, Math.max(at.wide, 3), at.last - plot.top);
  context.strokeStyle = colour("ink");
  context.lineWidth = 1.25;
  context.strokeRect(x - 1, plot.top, Math.max(at.wide, 3) + 1, at.last - plot.top);
  if (state.frame !== null && state.frame >= data.first) {
    const y = at.y(state.frame) + at.high / 2;
    context.setLineDash([2, 3]);
    context.beginPath();
    context.moveTo(plot.left, y);
    context.lineTo(width - plot.right, y);
    context.stroke();
  }
}

function point(event) {
  const box = $("map").getBoundingClientRect(), at = places(box.width, box.height);
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const index = at.chunk(x), aim = at.frame(y), near = Math.max(1, Math.round(4 / at.high));
  const found = memoryOf(data.chunks[index]).filter((each) => Math.abs(each.frame - aim) <= near)
    .sort((a, b) => Math.abs(a.frame - aim) - Math.abs(b.frame - aim))[0];
  return { index, found, x, y, width: box.width };
}

function hover(event) {
  const { index, found, x, y, width } = point(event), tip = $("tip");
  tip.textContent = `chunk ${data.chunks[index].chunk}, ${when(data.chunks[index].start)}`
    + (found ? `: frame ${found.frame} of ${when(found.frame)}, ${found.role}${state.layer < 0 ? `, ${Math.round(100 * found.share)} % of layers` : ""}` : "");
  tip.hidden = false;
  tip.style.top = `${Math.max(0, y - 34)}px`;
  tip.style.left = `${Math.min(x + 12, Math.max(0, width - tip.offsetWidth))}px`;
}

function legend() {
  const present = new Set(data.chunks.flatMap((chunk) => chunk.memory.frames.map(tone)));
  const texts = { sink: "sink: the first frames", memory: "memory", recent: "recent", own: "the chunk itself",
    merged: "holds what other frames showed", pinned: "pinned" };
  const shown = Object.keys(texts).filter((name) => name === "own" || present.has(name));
  $("legend").replaceChildren(...shown.map((name) => make("li", { class: name }, make("i"), texts[name])));
  if (data.chunks.some((chunk) => chunk.changes.length)) $("legend").append(make("li", {}, "┊ something changed, such as the prompt"));
}

// One chunk ------------------------------------------------------------------------------------

function said(change) {
  const frames = "start" in change ? ` frames ${change.start} to ${change.stop - 1} (${when(change.start)})` : "";
  return { switch: "another prompt", cut: "a cut: a new shot begins", pin: `pinned:${frames}`, forget: `forgotten:${frames}` }[change.change]
    || (change.change === "replay" ? null : change.change);
}

function drawChunk() {
  const chunk = data.chunks[state.chunk], memory = memoryOf(chunk), wide = Math.min(84, Math.max(56, data.pictures.width));
  const of = state.layer < 0 ? plural(chunk.layers.length, "layer") : `layer ${state.layer}`;
  $("memory-title").textContent = `While chunk ${chunk.chunk} was made (${when(chunk.start)} to ${when(chunk.stop)}), ${of} could read`;
  const replayed = chunk.changes.filter((change) => change.change === "replay").flatMap((change) => change.frames);
  const texts = [...chunk.changes.map(said).filter(Boolean),
    ...(replayed.length ? [`${plural(replayed.length, "frame")} read again under the new prompt`] : [])];
  $("changes").hidden = !texts.length;
  $("changes").textContent = `Before it: ${texts.join("; ")}.`;
  const groups = Object.keys(WORDS).map((role) => {
    const some = memory.filter((each) => each.role === role);
    if (!some.length) return null;
    const thumbs = some.map((each) => {
      const share = Math.round(100 * each.share);
      return thumb(each.frame, wide, tone(each), each,
        make("span", { class: "share", title: `held by ${share} % of the layers`, role: "img", "aria-label": `held by ${share} % of the layers` }, (() => { const i = make("i"); i.style.width = `${share}%`; return i; })()),
        make("b", {}, when(each.frame)), each.score === null ? "" : make("span", { title: "the score that kept it" }, make("br"), short(each.score)));
    });
    const own = role === "recent" ? ", its own chunk included" : "";
    return make("div", { class: `group ${role}` }, make("h3", {}, `${WORDS[role]}: ${plural(some.length, "frame")}${own}`),
      make("div", { class: "thumbs" }, ...thumbs));
  });
  $("groups").replaceChildren(...groups.filter(Boolean));
  const aligned = memory.some((each) => each.marks.includes("aligned")) ? "; ≈: changed when it was recalled" : "";
  const scored = memory.some((each) => each.score !== null) ? "; the number: the score that kept it" : "";
  $("key").textContent = `The bar: the share of layers that held it${scored}${aligned}.`
    + (chosenLayers(chunk).some((layer) => layer.decisions.length) ? "" : " No scores were compared in this chunk: there was room, or age alone decides.");
  const moves = [["admitted", "Came into memory", "nothing"], ["dropped", "Left for good", "nothing"]].map(([name, title, none]) => {
    const some = union(chunk, name), all = chosenLayers(chunk).length;
    return make("div", {}, make("h3", {}, `${title}${some.length ? `: ${plural(some.length, "frame")}` : ""}`, some.length && all > 1 ? make("small", {}, " (3×: in 3 layers)") : null), some.length
      ? make("div", { class: "thumbs" }, ...some.map(([frame, count]) => thumb(frame, 44, "memory", null,
        make("b", {}, when(frame)), all > 1 && count < all ? make("span", {}, ` ${count}×`) : "")))
      : make("p", {}, none));
  });
  $("moves").replaceChildren(...moves);
}

// The decision ---------------------------------------------------------------------------------

function candidates(chunk) {
  const found = new Map(), names = new Set();
  for (const layer of chosenLayers(chunk)) for (const decision of layer.decisions) {
    const numbers = Object.keys(decision).filter((name) => !["frames", "keep"].includes(name)
      && Array.isArray(decision[name]) && decision[name].length === decision.frames.length);
    numbers.forEach((name) => names.add(name));
    decision.frames.forEach((frame, i) => {
      const each = found.get(frame) || { frame, layers: 0, kept: 0, sums: {}, known: {} };
      each.layers += 1;
      each.kept += decision.keep && decision.keep[i] ? 1 : 0;
      for (const name of numbers) if (typeof decision[name][i] === "number") {
        each.sums[name] = (each.sums[name] || 0) + decision[name][i];
        each.known[name] = (each.known[name] || 0) + 1;
      }
      found.set(frame, each);
    });
  }
  const order = ["score", ...[...names].filter((name) => name !== "score")].filter((name) => names.has(name));
  const rows = [...found.values()].sort((a, b) => a.frame - b.frame);
  for (const row of rows) row.means = Object.fromEntries(order.map((name) => [name, row.known[name] ? row.sums[name] / row.known[name] : null]));
  return [rows, order];
}

function drawDecision() {
  const chunk = data.chunks[state.chunk], [rows, names] = candidates(chunk), many = state.layer < 0;
  const decided = chosenLayers(chunk).filter((layer) => layer.decisions.length).length;
  $("columns").classList.toggle("quiet", !rows.length);
  $("decision-text").textContent = many ? `Candidates of ${plural(decided, "layer")}, with means over the layers in which they competed.`
    : `Candidates of layer ${state.layer}, and who was to stay.`;
  const scores = rows.map((row) => row.means.score).filter((score) => score !== null && score !== undefined);
  const [low, top] = [Math.min(...scores), Math.max(...scores)];
  const body = rows.map((row) => {
    const rate = make("span", { class: "rate" }, make("i")), score = row.means.score;
    rate.firstChild.style.width = score === null || score === undefined ? "0" : `${top > low ? 6 + 94 * (score - low) / (top - low) : 100}%`;
    return make("tr", { class: row.kept ? "" : "lost", "data-frame": row.frame },
      make("td", {}, thumb(row.frame, 34, "memory", null, make("b", {}, when(row.frame)))),
      make("td", {}, many ? `${row.kept} of ${row.layers}` : row.kept ? "stays" : "goes"),
      ...names.map((name) => make("td", name === "score" ? {} : { class: "number" }, name === "score" ? rate : "", short(row.means[name]))));
  });
  const head = make("tr", {}, make("th", { scope: "col" }, "frame of"), make("th", { scope: "col" }, many ? "stays in" : ""),
    ...names.map((name) => make("th", { scope: "col", class: name === "score" ? "" : "number" }, name)));
  $("decision").replaceChildren(...(rows.length ? [make("table", {}, make("thead", {}, head), make("tbody", {}, ...body))] : []));
}

// Layer by layer -------------------------------------------------------------------------------

function drawLayers() {
  const chunk = data.chunks[state.chunk], frames = chunk.memory.frames.map((each) => each.frame);
  const head = make("tr", {}, make("th", { scope: "col" }), ...frames.map((frame) => make("th", { scope: "col" }, make("span", {}, when(frame)))));
  const rows = chunk.layers.map((layer, number) => {
    const roles = rolesOf(layer, chunk), known = layer.scores.filter((score) => score !== null);
    const [low, top] = [Math.min(...known), Math.max(...known)];
    const cells = frames.map((frame) => {
      const place = layer.seen.indexOf(frame), chosen = frame === state.frame ? " chosen" : "";
      if (place < 0) return make("td", { class: chosen });
      const score = layer.scores[place], each = { role: roles.get(frame), marks: marksOf(layer, frame) };
      const strength = score === null ? 62 : top > low ? 30 + 70 * (score - low) / (top - low) : 100;
      const text = `layer ${number}, frame of ${when(frame)}: ${each.role}${score === null ? "" : `, score ${score}`}${each.marks.length ? `, ${each.marks.join(", ")}` : ""}`;
      return make("td", { class: `held ${tone(each)}${chosen}${strength > 78 ? " strong" : ""}`, "--strength": `${strength}%`, title: text, "data-frame": frame },
        score === null ? "" : (rank(known, score)));
    });
    const here = number === state.layer ? "here" : "";
    return make("tr", { class: here }, make("th", { scope: "row" }, `layer ${number}`), ...cells);
  });
  $("layers").replaceChildren(make("table", { class: "grid" }, make("thead", {}, head), make("tbody", {}, ...rows)));
}

const rank = (scores, score) => String(1 + scores.filter((other) => other > score).length);

// The life of a frame --------------------------------------------------------------------------

function drawFrame() {
  const chunk = data.chunks[state.chunk];
  const frame = state.frame ?? (memoryOf(chunk).find((each) => each.role === "memory") || memoryOf(chunk)[0]).frame;
  const layers = chunk.layers.length, made = data.chunks.findIndex((each) => each.stop > frame);
  $("frame-title").textContent = `The life of frame ${frame}, of ${when(frame)}`;
  $("frame-picture").replaceChildren(picture(frame, 64));
  const last = range(layers).map((number) => data.chunks.findLastIndex((each) => each.layers[number].seen.includes(frame)));
  const longest = Math.max(...last), keepers = range(layers).filter((number) => last[number] === longest);
  const end = longest === data.chunks.length - 1 ? "to the end" : `up to chunk ${data.chunks[longest]?.chunk} (${when(data.chunks[longest]?.start ?? 0)})`;
  $("frame-text").textContent = longest < 0 ? "No chunk of this trace could read it."
    : `${frame < data.chunks[0].start ? "Made before what is shown here" : `Made in chunk ${data.chunks[made].chunk}`}. ${keepers.length === layers ? "All layers" : keepers.length === 1 ? `Layer ${keepers[0]}` : `${keepers.length} of ${layers} layers`} held it ${end}, the others shorter.`
      .replace(keepers.length === layers ? ", the others shorter" : "\u0000", "");
  const canvas = $("life");
  canvas.style.height = `${Math.min(320, 30 + layers * Math.max(6, Math.min(14, 160 / layers)))}px`;
  const [context, width, height] = fit(canvas), wide = (width - plot.left - plot.right) / data.chunks.length, high = (height - 24) / layers;
  const colours = Object.fromEntries(["sink", "memory", "recent", "merged", "pinned", "ink", "soft", "field"].map((c) => [c, colour(c)]));
  context.font = "11px system-ui, sans-serif";
  for (const number of range(layers)) {
    context.fillStyle = colours.field;
    context.fillRect(plot.left, number * high, width - plot.left - plot.right, high - 1.5);
    data.chunks.forEach((each, index) => {
      const layer = each.layers[number];
      if (!layer.seen.includes(frame)) return;
      context.fillStyle = frame >= each.start ? colours.ink : colours[tone({ role: rolesOf(layer, each).get(frame), marks: marksOf(layer, frame) })];
      context.fillRect(plot.left + index * wide, number * high, Math.max(wide, 1), high - 1.5);
    });
    context.fillStyle = colours.soft;
    context.textAlign = "right";
    if (high >= 11 || number % Math.ceil(11 / high) === 0) context.fillText(`${number}`, plot.left - 6, number * high + Math.min(high, 11) - 1);
  }
  context.textAlign = "left";
  context.fillText("layer, over all chunks", plot.left, height - 6);
  context.strokeStyle = colours.ink;
  context.strokeRect(plot.left + state.chunk * wide - 0.5, 0.5, Math.max(wide, 2) + 1, layers * high - 1.5);
  canvas.setAttribute("aria-label", $("frame-text").textContent);
}

// What passes read -----------------------------------------------------------------------------

function passes(names) {
  const steps = names.filter((name) => typeof name === "number").map((name) => name + 1), others = names.filter((name) => typeof name !== "number");
  const close = steps.length > 1 && steps[steps.length - 1] - steps[0] === steps.length - 1;
  const text = !steps.length ? [] : [steps.length === 1 ? `step ${steps[0]}` : close ? `steps ${steps[0]} to ${steps[steps.length - 1]}` : `steps ${steps.join(", ")}`];
  return [...text, ...others.map((name) => `${name} pass`)].join(", ");
}

function spans(numbers) {
  const parts = [];
  for (const n of numbers) {
    const last = parts[parts.length - 1];
    if (last && last[1] === n - 1) last[1] = n; else parts.push([n, n]);
  }
  return parts.map(([a, b]) => (a === b ? `${a}` : `${a} to ${b}`)).join(", ");
}

function drawReads() {
  const chunk = data.chunks[state.chunk], groups = new Map();
  chunk.layers.forEach((layer, number) => {
    if (state.layer >= 0 && number !== state.layer) return;
    for (const read of layer.reads) {
      const all = read.passes.includes("context") && read.passes.length === 1 ? layer.kept : layer.seen;
      const frames = read.frames || all, roles = rolesOf(layer, chunk), whole = read.frames === null && read.bias === null;
      const pattern = all.map((frame) => [roles.get(frame), frames.includes(frame), read.bias && read.bias[frames.indexOf(frame)]]);
      const key = JSON.stringify(whole ? read.passes : [read.passes, pattern]);
      const group = groups.get(key) || { read, all, layers: [], roles };
      group.layers.push(number);
      groups.set(key, group);
    }
  });
  const found = [...groups.values()];
  if (found.every((group) => group.read.frames === null && group.read.bias === null)) {
    $("reads").replaceChildren(make("p", { class: "soft" }, "Every pass read all that could be read; the context pass after the memory had changed."));
    return;
  }
  const shown = found.slice(0, 40).map(({ read, all, layers, roles }) => {
    const frames = read.frames || all, bias = read.bias || frames.map(() => 0);
    const cells = all.map((frame) => {
      const place = frames.indexOf(frame), weight = place < 0 ? 0 : Math.exp(bias[place]);
      return make("i", { class: place < 0 ? "" : `held ${roles.get(frame) || "memory"}`, "--strength": `${15 + 85 * Math.min(1, weight)}%`,
        title: `frame ${frame} of ${when(frame)}${place < 0 ? ": not read" : bias[place] ? `: bias ${short(bias[place])}` : ""}` });
    });
    const of = state.layer < 0 ? `layer${layers.length > 1 ? "s" : ""} ${spans(layers)}` : "";
    return make("div", { class: "read" }, make("span", {}, passes(read.passes), of ? make("br") : "", make("span", { class: "soft" }, of)),
      make("span", {}, make("span", { class: "cells", role: "img", "aria-label": `${frames.length} of ${all.length} frames` }, ...cells),
        make("span", { class: "soft" }, `${frames.length} of ${all.length} frames${read.bias ? ", some weighed less" : ""}`)));
  });
  $("reads").replaceChildren(...shown, found.length > 40 ? make("p", { class: "soft" }, `and ${found.length - 40} more; choose a layer`) : "");
}

// All of it ------------------------------------------------------------------------------------

function draw(changed) {
  const chunk = data.chunks[state.chunk];
  $("chunk").value = state.chunk;
  $("where").textContent = `chunk ${chunk.chunk}, ${when(chunk.start)} to ${when(chunk.stop)}`;
  $("chunk").setAttribute("aria-valuetext", $("where").textContent);
  $("layer").value = state.layer;
  if (!changed || "layer" in changed) drawMap();
  drawMark();
  drawChunk();
  drawDecision();
  drawFrame();
  drawReads();
  drawLayers();
}

function choose(changed) {
  const focused = document.activeElement?.dataset?.frame, inside = document.activeElement?.closest("section")?.getAttribute("aria-labelledby");
  Object.assign(state, changed);
  draw(changed);
  if (focused !== undefined && inside) document.querySelector(`[aria-labelledby=${inside}] .thumb[data-frame="${focused}"]`)?.focus();
}

const go = (index) => choose({ chunk: Math.min(data.chunks.length - 1, Math.max(0, index)) });

function play(on) {
  clearInterval(state.playing);
  state.playing = on ? setInterval(() => (state.chunk === data.chunks.length - 1 ? play(false) : go(state.chunk + 1)), 220) : 0;
  $("play").textContent = on ? "❚❚" : "▶\uFE0E";
  $("play").setAttribute("aria-label", on ? "Pause" : "Play");
  $("play").setAttribute("aria-pressed", on);
}

function keys(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select")) return;
  const far = event.shiftKey ? 10 : 1, layers = data.chunks[0].layers.length;
  const actions = {
    ArrowLeft: () => go(state.chunk - far), ArrowRight: () => go(state.chunk + far),
    Home: () => go(0), End: () => go(data.chunks.length - 1),
    ArrowUp: () => choose({ layer: Math.max(-1, state.layer - 1) }), ArrowDown: () => choose({ layer: Math.min(layers - 1, state.layer + 1) }),
    " ": () => play(!state.playing),
  };
  const scrolls = event.target.closest(".scroll") && event.key !== " ";
  if (!(event.key in actions) || scrolls || (event.key === " " && event.target.closest("button"))) return;
  event.preventDefault();
  actions[event.key]();
}

function begin() {
  const { header, chunks } = data, layers = chunks[0].layers.length;
  data.first = Math.min(...chunks[0].memory.frames.map((each) => each.frame), chunks[0].start);
  data.pictures.places = new Map(data.pictures.frames.map((frame, index) => [frame, index]));
  const { sink, recent } = chunks[0], between = Math.max(0, header.budget - sink - recent);
  const facts = [["policy", header.policy], ["reads at most", `${header.budget} frames: ${sink} sink + ${between} memory + ${recent} recent`],
    ["layers", layers], ["chunks", chunks.length], ["seed", header.seed]];
  $("facts").replaceChildren(...facts.filter(([, value]) => value !== undefined).map(([name, value]) => make("li", {}, make("span", {}, `${name} `), make("b", {}, String(value)))));
  $("chunk").max = chunks.length - 1;
  $("layer").replaceChildren(make("option", { value: -1 }, "all together"), ...range(layers).map((n) => make("option", { value: n }, `layer ${n}`)));
  $("chunk").addEventListener("input", () => go(Number($("chunk").value)));
  $("layer").addEventListener("change", () => choose({ layer: Number($("layer").value) }));
  $("back").addEventListener("click", () => go(state.chunk - 1));
  $("on").addEventListener("click", () => go(state.chunk + 1));
  $("play").addEventListener("click", () => play(!state.playing));
  $("map").addEventListener("pointermove", hover);
  $("map").addEventListener("pointerleave", () => { $("tip").hidden = true; });
  $("map").addEventListener("click", (event) => {
    const { index, found } = point(event);
    choose(found ? { chunk: index, frame: found.frame } : { chunk: index });
  });
  document.addEventListener("keydown", keys);
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (entry.contentRect.width === width) return;
    width = entry.contentRect.width;
    draw();
  }).observe(document.body);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw());
  const full = chunks.findIndex((chunk) => chunk.memory.frames.some((each) => each.role === "memory" && each.share < 1));
  state.chunk = full < 0 ? chunks.length - 1 : Math.floor((full + chunks.length - 1) / 2);
  legend();
  draw();
  document.documentElement.dataset.ready = "yes";
}

(async () => {
  try {
    const packed = Uint8Array.from(atob($("data").textContent), (letter) => letter.charCodeAt(0));
    data = await new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
    begin();
  } catch (error) {
    $("trouble").hidden = false;
    $("trouble").textContent = `This browser cannot show the page: ${error.message}`;
    throw error;
  }
})();
