/** The page as one file, which opens without a server: program, style and all answers that its views need. */

import { answers, get, saved, type Question } from "./api.svelte";
import { known, views } from "./ahead";
import { look, reading } from "./reading.svelte";
import { page, toHash } from "./state.svelte";

/** What the views ask for the present state, and for other heads, so that all of them work in the file. */
function questions(): Question[] {
  const { num_layers: layers, num_heads: heads } = reading.about!.config;
  const position = reading.asked;
  const list = [{ path: "api/model" }, ...views(), look("kinds")];
  for (let layer = 0; layer < Math.min(layers, 4); layer++)
    for (let head = 0; head < Math.min(heads, 4); head++) {
      list.push(look("attention", { layer, head }));
      list.push(look("head", { layer, head, position }));
    }
  return known(list);
}

const escaped = (text: string) => text.replaceAll("<", "\\u003c").replaceAll("\u2028", "\\u2028").replaceAll("\u2029", "\\u2029");

export async function saveAsFile(names: string[]) {
  if (saved) return;
  await Promise.allSettled(questions().map((q) => get(q)));
  const content = { hash: toHash({ ...page }), views: names, answers: Object.fromEntries(answers()) };
  const program = document.querySelector<HTMLScriptElement>('script[type="module"]')!.src;
  const style = document.querySelector<HTMLLinkElement>('link[rel="stylesheet"]')!.href;
  const [js, css] = await Promise.all([program, style].map(async (url) => (await fetch(url)).text()));
  const title = document.title.replace(/[<&]/g, "");
  const html = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:">
<title>${title}</title><style>${css.replaceAll("</", "<\\/")}</style></head><body><div id="app"></div>
<script type="application/json" id="saved">${escaped(JSON.stringify(content))}</script>
<script type="module">${js.replaceAll("</script", "<\\/script")}</script></body></html>
`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([html], { type: "text/html" }));
  link.download = `${reading.about!.name}.html`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

