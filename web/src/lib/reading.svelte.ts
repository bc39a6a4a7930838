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
  const know = () => {
    about = served.value;
    if (about?.mode === "model") note = fit(about) || note;
  };
  know();
  $effect(know);
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
  /** The position to ask about: of the last, which moves with the text, only that it is the last. */
  get asked(): number {
    return page.position < 0 ? -1 : this.position;
  },
  get ready(): boolean {
    return about?.mode === "model" && found?.value != null;
  },
};

/** The weights of a moment of the run, by default those that are looked at. */
export const snapshot = (step = page.step) => (step >= 0 ? { snapshot: step } : {});

/**
 * The text to ask about; null as long as it is not known. A token is a byte at least, so a text of few bytes fits the
 * context whatever its tokens are: the first questions need not wait for them.
 */
function asked(): string | null {
  if (reading.ready) return reading.text;
  const fits = about?.mode === "model" && !found?.error && new TextEncoder().encode(whole()).length < about.config.context_length;
  return fits && page.position < 0 ? whole() : null;
}

/** A question about the text by the weights of a moment; null as long as the text is not known. */
export function look(view: string, more: Record<string, unknown> = {}, step = page.step): Question | null {
  const text = asked();
  if (text === null) return null;
  return { path: view.includes("/") ? view : `api/look/${view}`, body: { text, ...snapshot(step), ...more } };
}

/** The same, where there is a token whose price is known. */
export const priced = (step = page.step) => (asked() ? look("surprise", {}, step) : null);

/** What the time machine shows of a moment. */
export const moment = (step: number) => ({
  odds: look("odds", { position: reading.asked, k: 10 }, step),
  surprise: priced(step),
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
