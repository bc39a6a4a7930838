// node llama_cpp_greedy.mjs MODULES MODEL.gguf QUESTION.json: the likeliest token, again and again, as a user would.
import {readFileSync} from "node:fs";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const [modules, path, question] = process.argv.slice(2);
const {getLlama} = await import(pathToFileURL(join(modules, "node-llama-cpp", "dist", "index.js")).href);
const {prompts, count, eos} = JSON.parse(readFileSync(question, "utf8"));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: model.trainContextSize, threads: 1});
const sequence = context.getSequence();
const answers = [];
for (const prompt of prompts) {
    await sequence.clearHistory();
    const ids = [];
    for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        ids.push(token);
        if (token === eos || ids.length === count) break;
    }
    answers.push(ids);
}
console.log(JSON.stringify(answers));
process.exit(0);
