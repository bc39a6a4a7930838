// Asked by readers.LlamaCppReader: node llama_cpp.mjs PACKAGE MODEL.gguf FOLDER
// FOLDER/question.json has `rows` of ids or `texts`; answer.json and logits.f32 (T x V, little-endian) are written there.
import {readFileSync, writeFileSync} from "node:fs";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const [packageFolder, path, folder] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(join(packageFolder, "dist", "index.js")).href);
const {rows, texts} = JSON.parse(readFileSync(join(folder, "question.json"), "utf8"));
// The processor and a 32-bit cache: the question is what the file means, not how fast a card is.
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: path, vocabOnly: rows === undefined});
const answer = {};
if (texts !== undefined) answer.ids = texts.map((text) => model.tokenize(text, false));
if (rows !== undefined) {
    const context = await model.createContext({
        contextSize: model.trainContextSize,
        threads: 1,
        flashAttention: false,
        experimentalKvCacheKeyType: "F32",
        experimentalKvCacheValueType: "F32"
    });
    const sequence = context.getSequence();
    const chunks = [];
    for (const row of rows) {
        await sequence.clearHistory();
        const items = row.map((token) => [token, {generateNext: {logits: true}}]);
        for (const output of await sequence.controlledEvaluate(items)) {
            const logits = new Float32Array(output.next.logits.size);
            for (const [token, value] of output.next.logits) logits[token] = value;
            answer.vocab_size = logits.length;
            chunks.push(Buffer.from(logits.buffer));
        }
    }
    writeFileSync(join(folder, "logits.f32"), Buffer.concat(chunks));
}
writeFileSync(join(folder, "answer.json"), JSON.stringify(answer));
process.exit(0);
