// node transformers_js.mjs MODULES FOLDER QUESTION.json: transformers.js on the exported folder, without a network.
import {readFileSync} from "node:fs";
import {basename, dirname, join} from "node:path";
import {pathToFileURL} from "node:url";

const [modules, folder, question] = process.argv.slice(2);
const entry = join(modules, "@huggingface", "transformers", "dist", "transformers.node.mjs");
const {AutoModelForCausalLM, AutoTokenizer, Tensor, env} = await import(pathToFileURL(entry).href);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder) + "/";
const {prompts, count, texts} = JSON.parse(readFileSync(question, "utf8"));
const tokenizer = await AutoTokenizer.from_pretrained(basename(folder));
const answer = {ids: texts.map((text) => tokenizer.encode(text, {add_special_tokens: false}))};
for (const dtype of ["fp32", "q8"]) {
    const model = await AutoModelForCausalLM.from_pretrained(basename(folder), {dtype, device: "cpu"});
    answer[dtype] = [];
    for (const prompt of prompts) {
        const shape = [1, prompt.length];
        const output = await model.generate({
            input_ids: new Tensor("int64", BigInt64Array.from(prompt.map(BigInt)), shape),
            attention_mask: new Tensor("int64", new BigInt64Array(prompt.length).fill(1n), shape),
            max_new_tokens: count,
            do_sample: false
        });
        answer[dtype].push(output.tolist()[0].slice(prompt.length).map(Number));
    }
}
console.log(JSON.stringify(answer));
