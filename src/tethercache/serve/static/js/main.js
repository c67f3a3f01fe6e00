/** The studio: puts its parts together; see docs/serve.md for what it says to the server. */

import { post } from "./api.js";
import { Compare } from "./compare.js";
import { Compose } from "./compose.js";
import { button, byId, icon, make, say, write } from "./dom.js";
import { Source } from "./feed.js";
import { Keys, tabs } from "./keys.js";
import { Library } from "./library.js";
import { Memory } from "./memory.js";
import { Player } from "./player.js";
import { askToken, chooseBranch } from "./questions.js";
import { Screen } from "./screen.js";
import { Studio } from "./studio.js";
import { theme } from "./theme.js";
import { Timeline } from "./timeline.js";
import { count, explain } from "./words.js";

const studio = new Studio(new Player(byId("video")));
const { player } = studio;
const compose = new Compose(studio);
const screen = new Screen(studio);
const timeline = new Timeline(studio);
const compare = new Compare();
const library = new Library(studio, (pair) => {
  player.pause();
  compare.open(pair);
});
new Memory(studio);
const showTab = tabs(document.querySelector(".tabs"));
theme();

/** Say what went wrong, and what to do. */
function alarm(error) {
  const { title, text, todo } = explain(error);
  const close = button("", () => alert.remove(), { className: "icon", aria: { label: "Dismiss" } });
  close.append(icon("close"));
  const words = make("p", {}, make("b", {}, title), `${text} ${todo}`.trim());
  const alert = make("div", { className: "alert", data: { title } }, words, close);
  const same = [...byId("alerts").children].find((other) => other.dataset.title === title);
  if (same) same.replaceWith(alert);
  else byId("alerts").append(alert);
}

function status(state, text) {
  byId("server").dataset.state = state;
  write(byId("server").lastElementChild, text);
}

studio.addEventListener("trouble", ({ error }) => {
  if (error.status === 401) askToken(enter);
  else alarm(error);
});
studio.addEventListener("lost", () => status("lost", "The server does not answer; trying again"));
studio.addEventListener("found", () => library.reload());
studio.addEventListener("branched", ({ video }) => {
  showTab("tab-takes");
  say(`Another take is being made: ${video.prompt}`);
});
studio.addEventListener("queue", ({ active }) => {
  const [model] = studio.info.models;
  const name = model ? `${model.id}, ${model.width}×${model.height} at ${model.fps} fps` : "";
  if (active.length) status("busy", `Making ${count(active.length, "video")} · ${name}`);
  else status("ready", `Ready · ${name}`);
});

new Keys([
  { keys: [" ", "k"], name: "Space", text: "play and pause", act: () => player.toggle() },
  { keys: ["ArrowLeft"], name: "←", text: "one frame back, with Shift one second", act: (e) => move(e, -1) },
  { keys: ["ArrowRight"], name: "→", text: "one frame on, with Shift one second", act: (e) => move(e, 1) },
  { keys: ["Home"], name: "Home", text: "to the beginning", act: () => player.seek(0) },
  { keys: ["End"], name: "End", text: "to the newest frame", act: () => screen.toNewest() },
  { keys: ["p"], name: "P", text: "write a prompt", act: () => byId("prompt").focus() },
  { keys: ["b"], name: "B", text: "branch at the playhead", act: () => studio.take?.made && chooseBranch(studio, player.time) },
  { keys: ["r"], name: "R", text: "rewind to the playhead", act: () => timeline.rewind(player.time) },
  { keys: ["i"], name: "I", text: "a span begins at the playhead", act: () => press("mark-in") },
  { keys: ["o"], name: "O", text: "a span ends at the playhead", act: () => press("mark-out") },
  { keys: ["+", "="], name: "+", text: "a closer look at the timeline", act: () => timeline.magnify(2) },
  { keys: ["-"], name: "−", text: "show more of it", act: () => timeline.magnify(0.5) },
  { keys: ["f"], name: "F", text: "full screen", act: () => screen.toggleFull() },
  { keys: ["?"], name: "?", text: "these keys", act: () => byId("help").click() },
]);

function move({ shiftKey }, way) {
  if (!studio.take) return;
  if (shiftKey) player.seek(Math.min(studio.take.made - 0.05, player.time + way));
  else player.step(way);
}

const press = (id) => byId(id).disabled || byId(id).click();

/** Show the token, get a cookie for it, and begin anew. */
async function enter(token) {
  try {
    await post("/v1/session", { token });
    await begin();
  } catch (error) {
    if (error.status === 401) alarm(error);
    studio.dispatchEvent(Object.assign(new Event("trouble"), { error }));
  }
}

/** Read what the server can do, and open what the address names. */
async function begin() {
  try {
    await studio.learn();
  } catch (error) {
    status("lost", "The server does not answer; trying again");
    if (error.status === 401) askToken(enter);
    else setTimeout(begin, 2000);
    return;
  }
  compose.fill();
  await library.reload();
  const { video } = named();
  if (!video) return;
  try {
    await studio.open(video);
    compose.adopt(studio.take.video);
  } catch (error) {
    history.replaceState(null, "", location.pathname);
    alarm(error);
  }
}

/** What the part of the address behind # says; it never reaches a server. */
const named = () => Object.fromEntries(new URLSearchParams(location.hash.slice(1)));

const { token } = named();
if (!Source) alarm({ code: "playback", message: "Media Source Extensions are missing." });
if (token) {
  history.replaceState(null, "", location.pathname);
  enter(token);
} else {
  begin();
}
