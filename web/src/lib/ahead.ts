/** Answers fetched before they are wanted, so that another view, or another moment of the run, is there at once. */

import { get, saved, type Question } from "./api.svelte";
import { look, moment, reading, snapshot, switched } from "./reading.svelte";
import { page } from "./state.svelte";

/** A server that takes longer than this for an answer has better things to do, in milliseconds. */
const PATIENCE = 150;

/** The loss on other texts costs a thousand prompts' work: ahead it is asked of models with fewer parameters than this. */
const SMALL = 5e6;

/** Without those that cannot be asked yet. */
export const known = (list: (Question | null)[]) => list.filter((q): q is Question => q !== null);

/** What each view asks about the text as it stands. */
export function views(): Question[] {
  const position = reading.asked;
  const { layer, head, unit, word } = page;
  const { odds, surprise, atlas, story } = moment(page.step);
  const { plain, without, effect } = switched();
  return known([
    { path: "api/history" }, surprise, atlas, odds,
    look("api/logits", { position, k: 60 }), look("attention", { layer, head }), look("head", { layer, head, position }),
    look("lens", { k: 3 }), look("attribution", { position, unit }), story,
    { path: "api/look/neighbours", body: { ...(word && { target: word }), k: 12, ...snapshot() } },
    { path: "api/look/words", body: { k: 200, ...snapshot() } },
    plain, without, reading.about!.parameters < SMALL ? effect : null,
  ]);
}

/** Ask one after another, once nothing has changed for a while. Returns what ends it. */
export function ahead(questions: Question[], wait: number, patience = PATIENCE): () => void {
  if (saved) return () => {};
  const control = new AbortController();
  const timer = setTimeout(async () => {
    for (const question of questions) {
      const begin = performance.now();
      await get(question, control.signal).catch(() => null);
      if (control.signal.aborted || performance.now() - begin > patience) return;
    }
  }, wait);
  return () => {
    clearTimeout(timer);
    control.abort();
  };
}
