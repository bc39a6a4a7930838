/** The text as the model reads it, and what the server said about itself: shared by all views. */

import { answerTo, type Question } from "./api.svelte";
import { page, whole } from "./state.svelte";
import type { About, Tokens } from "./types";

let about = $state.raw<About | null>(null);
let found = $state.raw<{ value: Tokens | null; error: string } | null>(null);

/** Called once, by the page itself. */
export function startReading() {
  const served = answerTo<About>(() => ({ path: "api/model" }), 0);
  const tokens = answerTo<Tokens>(
    () => (about?.mode === "model" ? { path: "api/tokens", body: { text: whole() } } : null),
    60,
  );
  $effect(() => {
    about = served.value;
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
    return found?.value != null;
  },
};

/** The weights that are looked at. */
export const snapshot = () => (page.step >= 0 ? { snapshot: page.step } : {});

/** A question about the text by the weights looked at; null as long as the text is not known. */
export function look(view: string, more: Record<string, unknown> = {}): Question | null {
  if (!reading.ready) return null;
  return { path: view.includes("/") ? view : `api/look/${view}`, body: { text: reading.text, ...snapshot(), ...more } };
}
