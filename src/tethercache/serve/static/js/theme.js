/** Light, dark, or as the system has it; kept in this browser. */

import { byId, write } from "./dom.js";

const NEXT = { system: "light", light: "dark", dark: "system" };
const dark = matchMedia("(prefers-color-scheme: dark)");

function stored() {
  try {
    return localStorage.getItem("theme") ?? "system";
  } catch {
    return "system"; // a browser that keeps nothing
  }
}

/** Show a choice; tells the document `theme`, for those who draw. */
function apply(choice) {
  const isDark = choice === "dark" || (choice === "system" && dark.matches);
  document.documentElement.dataset.theme = isDark ? "dark" : "light";
  write(byId("theme"), `Theme: ${choice}`);
  document.dispatchEvent(new Event("theme"));
}

/** Let the button change it. */
export function theme() {
  let choice = stored();
  apply(choice);
  dark.addEventListener("change", () => apply(choice));
  byId("theme").addEventListener("click", () => {
    choice = NEXT[choice] ?? "system";
    try {
      localStorage.setItem("theme", choice);
    } catch {
      // it holds until the page is left
    }
    apply(choice);
  });
}
