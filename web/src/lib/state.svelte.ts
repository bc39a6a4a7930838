/** All that the page shows follows from this, and this stands in the address. */

export const VIEWS = [
  { id: "write", name: "Write", group: "Read and write" },
  { id: "odds", name: "Odds", group: "Read and write" },
  { id: "surprise", name: "Surprise", group: "Read and write" },
  { id: "heads", name: "Heads", group: "Look inside" },
  { id: "head", name: "One head", group: "Look inside" },
  { id: "layers", name: "Layers", group: "Look inside" },
  { id: "why", name: "Why this token", group: "Look inside" },
  { id: "switches", name: "Switchboard", group: "Look inside" },
  { id: "words", name: "Words", group: "Look inside" },
  { id: "time", name: "Time machine", group: "Watch it learn" },
  { id: "live", name: "Live", group: "Watch it learn" },
] as const;

export type ViewName = (typeof VIEWS)[number]["id"];

const defaults = {
  view: "write" as string,
  /** What the reader wrote, and what the model added. */
  text: "Once upon a time there was a little girl named Lily.",
  made: "",
  /** Step of a snapshot; -1: the finished weights. */
  step: -1,
  temperature: 0.8,
  topK: 0,
  topP: 1,
  length: 80,
  seed: 1,
  /** Position looked at, counted in tokens with the start as 0; -1: the last. */
  position: -1,
  layer: 0,
  head: 0,
  unit: "component",
  target: "",
  against: "",
  off: "",
  how: "zero",
  /** With its leading space; empty: the server chooses one. */
  word: "",
  hideFirst: false,
};

export type State = typeof defaults;

const short: Record<keyof State, string> = {
  view: "", text: "text", made: "more", step: "step", temperature: "t", topK: "k", topP: "p", length: "n", seed: "seed",
  position: "at", layer: "layer", head: "head", unit: "unit", target: "token", against: "against", off: "off",
  how: "how", word: "word", hideFirst: "hide",
};

/** `#odds?text=...&t=0.5`; what is as usual is left out. */
export function toHash(state: State): string {
  const query = new URLSearchParams();
  for (const key of Object.keys(defaults) as (keyof State)[])
    if (key !== "view" && state[key] !== defaults[key]) query.set(short[key], String(state[key]));
  const rest = query.toString();
  return `#${state.view}${rest ? `?${rest}` : ""}`;
}

/** What an address says; anything it says wrongly is as usual. */
export function fromHash(hash: string): State {
  const [view, rest = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  const query = new URLSearchParams(rest);
  const state: Record<string, unknown> = { ...defaults };
  if (VIEWS.some((item) => item.id === view)) state.view = view;
  for (const [key, usual] of Object.entries(defaults)) {
    const given = query.get(short[key as keyof State]);
    if (key === "view" || given === null) continue;
    if (typeof usual === "number") state[key] = Number.isFinite(Number(given)) ? Number(given) : usual;
    else if (typeof usual === "boolean") state[key] = given === "true";
    else state[key] = given.slice(0, 20000);
  }
  return state as State;
}

export const page: State = $state(fromHash(location.hash));

/** The text that every view but Write looks at. */
export const whole = () => page.text + page.made;

let written = "";
let timer = 0;

/** Keep the address in step, without a new entry in the browser's history for each letter. */
export function follow() {
  const hash = toHash($state.snapshot(page));
  clearTimeout(timer);
  timer = window.setTimeout(() => {
    if (hash === location.hash) return;
    const moved = hash.split("?")[0] !== location.hash.split("?")[0];
    written = hash;
    history[moved && location.hash ? "pushState" : "replaceState"](null, "", hash);
  }, 150);
}

addEventListener("popstate", () => {
  if (location.hash !== written) Object.assign(page, fromHash(location.hash));
  written = "";
});
