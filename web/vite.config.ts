import { createHash } from "node:crypto";
import { readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig, type Plugin } from "vite";

/** Every file that the build depends on, by name; `tests/serving/page/test_build.py` reads the same list. */
function sources(root: string): string[] {
  const top = ["index.html", "package.json", "package-lock.json", "tsconfig.json", "vite.config.ts", "svelte.config.js"];
  const walk = (folder: string): string[] =>
    readdirSync(folder).flatMap((name) => {
      const path = join(folder, name);
      return statSync(path).isDirectory() ? walk(path) : [path];
    });
  const below = ["src", "public"].flatMap((name) => walk(join(root, name)));
  return [...top, ...below.map((path) => relative(root, path).replaceAll("\\", "/"))].sort();
}

/** Writes a hash of the sources beside the assets, so that a stale build is noticed without Node. */
function stamp(): Plugin {
  return {
    name: "stamp",
    generateBundle() {
      const hash = createHash("sha256");
      for (const name of sources(import.meta.dirname)) {
        const text = readFileSync(join(import.meta.dirname, name), "utf8").replaceAll("\r\n", "\n");
        hash.update(`${name}\0${text}\0`);
      }
      this.emitFile({ type: "asset", fileName: "sources.sha256", source: `${hash.digest("hex")}\n` });
    },
  };
}

export default defineConfig({
  base: "./",
  plugins: [svelte(), stamp()],
  build: {
    outDir: "../src/gpt2/serving/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    cssCodeSplit: false,
    reportCompressedSize: false,
  },
  server: { proxy: { "/api": "http://127.0.0.1:8000", "/v1": "http://127.0.0.1:8000" } },
});
