// Greedy decoding by llama.cpp: one JSON line in, {"ids": [...], "count": n}, one out with ids and seconds.
import readline from "node:readline";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [modelPath, threads, contextSize] = process.argv.slice(2);
const entry = createRequire(`${process.cwd()}/`).resolve("node-llama-cpp");
const { getLlama } = await import(pathToFileURL(entry));
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
const context = await model.createContext({ contextSize: Number(contextSize), threads: Number(threads) });
const sequence = context.getSequence();
process.stdin.on("end", () => process.exit()); // whoever asked is gone
console.log(JSON.stringify({ ready: true }));

for await (const line of readline.createInterface({ input: process.stdin })) {
  const { ids, count } = JSON.parse(line);
  await sequence.clearHistory();
  const start = process.hrtime.bigint();
  const out = [];
  for await (const token of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
    out.push(token);
    if (out.length >= count) break;
  }
  console.log(JSON.stringify({ ids: out, seconds: Number(process.hrtime.bigint() - start) / 1e9 }));
}
