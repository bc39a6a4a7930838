/** An address may come from another model: what this one does not have is exchanged for what it has. */

import { count } from "./format";
import { page } from "./state.svelte";
import type { About } from "./types";

const within = (n: number, size: number) => Math.min(Math.max(Math.trunc(n), 0), size - 1);

/** Whether the model has a part that is turned off: "1.2", "mlp.0", "attn.3", "token.5" or "positions". */
function has(part: string, layers: number, heads: number): boolean {
  const found = /^(?:(\d+)\.(\d+)|(?:mlp|attn)\.(\d+)|token\.\d+|positions)$/.exec(part);
  if (!found) return false;
  const [, layer = found[3] ?? "0", head = "0"] = found;
  return Number(layer) < layers && Number(head) < heads;
}

/** Puts the state right; says what it had to change, or nothing. */
export function fit(about: About): string {
  const { num_layers: layers, num_heads: heads } = about.config;
  const told: string[] = [];
  const [layer, head] = [within(page.layer, layers), within(page.head, heads)];
  if (layer !== page.layer || head !== page.head) {
    told.push(`This model has no head ${page.layer}.${page.head}, but ${layers} layers of ${heads} heads, counted from 0. Head ${layer}.${head} is shown.`);
    [page.layer, page.head] = [layer, head];
  }
  const steps = about.snapshots.map((item) => item.step);
  if (page.step >= 0 && !steps.includes(page.step)) {
    const nearest = steps.reduce((best, step) => (best < 0 || Math.abs(step - page.step) < Math.abs(best - page.step) ? step : best), -1);
    told.push(`Of step ${count(page.step)} no weights were kept. ${nearest < 0 ? "The finished model" : `Step ${count(nearest)}`} is shown.`);
    page.step = nearest;
  }
  const off = page.off ? page.off.split(",") : [];
  const gone = off.filter((part) => !has(part, layers, heads));
  if (gone.length) {
    told.push(`This model has no ${gone.slice(0, 4).join(", ")} to turn off.`);
    page.off = off.filter((part) => !gone.includes(part)).join(",");
  }
  return told.join(" ");
}
