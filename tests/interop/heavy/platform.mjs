// Names the two optional packages that this machine needs, of all those for other systems and graphics cards.
import {readFileSync} from "node:fs";
import {join} from "node:path";

const {platform, arch} = process;
const system = {linux: "linux", darwin: "mac", win32: "win"}[platform];
const wanted = {
    "node-llama-cpp": new RegExp(`/${system}-${arch}(-metal)?$`),
    sharp: new RegExp(`/sharp(-libvips)?-${platform}-${arch}$`)
};
for (const [name, pattern] of Object.entries(wanted)) {
    const {optionalDependencies} = JSON.parse(readFileSync(join(process.argv[2], name, "package.json"), "utf8"));
    for (const [optional, version] of Object.entries(optionalDependencies))
        if (pattern.test(optional)) console.log(`${optional}@${version}`);
}
