/** The same figures in Python: what a reader copies runs as it is. */

import { reading } from "./reading.svelte";
import { page } from "./state.svelte";

const text = (value: string) => JSON.stringify(value);

/** A script that ends in `lines`; `run` names the imports from gpt2.inspection. */
export function script(imports: string, lines: string[], needsText = true): string {
  const source = reading.about?.source ?? "models/mine";
  const parts = ["from gpt2 import load"];
  if (page.step >= 0)
    parts.push("from gpt2.checkpoint import RunFolder", "from gpt2.checkpoint.snapshots import list_snapshots");
  if (imports) parts.push(`from gpt2.inspection import ${imports}`);
  parts.push("", `model, tokenizer = load(${text(source)})`);
  if (page.step >= 0)
    parts.push(
      `snapshots = list_snapshots(RunFolder(${text(source)}).snapshots)`,
      `next(item for item in snapshots if item.step == ${page.step}).load_into(model)`,
    );
  if (needsText) parts.push(`text = ${text(reading.text)}`);
  return [...parts, ...lines].join("\n");
}

export const python = text;
