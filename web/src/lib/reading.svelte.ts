/** The text as the model reads it, and what the server said about itself: shared by all views. */

import { answerTo, type Question } from "./api.svelte";
import { fit } from "./fit";
import { page, whole } from "./state.svelte";
import type { About, Tokens } from "./types";

let about = $state.raw<About | null>(null);
let note = $state("");
let found = $state.raw<{ value: Tokens | null; error: string } | null>(null);

/** Called once, by the page itself. */
export function startReading() {
  const served = answerTo<About>(() => ({ path: "api/model" }), 0);
  // The text is asked about beside the model, not after it; where only a run is watched, which opens Live, there is none.
  const tokens = answerTo<Tokens>(
    () => (about?.mode === "model" || (!about && page.view !== "live") ? { path: "api/tokens", body: { text: whole() } } : null),
    60,
  );
  $effect(() => {
    about = served.value;
  });
  $effect(() => {
    if (about?.mode === "model") note = fit(about) || note;
  });
  $effect(() => {
    found = { value: tokens.value, error: tokens.error };
  });
  return served;
}

export const reading = {
  get about() {
    return about;
  },
  get error() {
    return found?.error ?? "";
  },
  /** What the address asked for and is not there. */
  get note() {
    return note;
  },
  dismiss() {
    note = "";
  },
  /** Tokens that fit the context; the text's own characters, joined they are `text`. */
  get pieces(): string[] {
    return found?.value ? found.value.pieces.slice(0, found.value.limit) : [];
  },
  get text(): string {
    return this.pieces.join("");
  },
  /** How many tokens do not fit. */
  get cut(): number {
    return found?.value ? Math.max(0, found.value.pieces.length - found.value.limit) : 0;
  },
  /** Tokens with the start of the text: T. */
  get length(): number {
    return this.pieces.length + 1;
  },
  /** The position looked at, 0 being the start of the text. */
  get position(): number {
    return page.position < 0 ? this.length - 1 : Math.min(page.position, this.length - 1);
  },
  get ready(): boolean {
    return about?.mode === "model" && found?.value != null;
  },
};

/** The weights of a moment of the run, by default those that are looked at. */
export const snapshot = (step = page.step) => (step >= 0 ? { snapshot: step } : {});

/** A question about the text by the weights of a moment; null as long as the text is not known. */
export function look(view: string, more: Record<string, unknown> = {}, step = page.step): Question | null {
  if (!reading.ready) return null;
  return { path: view.includes("/") ? view : `api/look/${view}`, body: { text: reading.text, ...snapshot(step), ...more } };
}

/** What the time machine shows of a moment. */
export const moment = (step: number) => ({
  odds: look("odds", { position: reading.position, k: 8 }, step),
  surprise: reading.length > 1 ? look("surprise", {}, step) : null,
  atlas: look("api/atlas", {}, step),
  story: look("api/continue", { length: 50, temperature: 0.7, seed: page.seed }, step),
});

/** The parts that are turned off; of single tokens, those that the text has. */
export const off = () => (page.off ? page.off.split(",") : []);

/** What the Switchboard asks: the next tokens with all parts and without some, and what follows on other texts. */
export function switched() {
  const asked = off().filter((part) => !part.startsWith("token.") || Number(part.slice(6)) < reading.length).sort();
  const k = 200;
  return {
    asked,
    plain: look("odds", { k }),
    without: look("odds", { k, off: asked, how: page.how }),
    effect: look("effect", { off: asked, how: page.how }),
  };
}
