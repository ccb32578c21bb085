// Bundles the page into the collector's package: index.html, page.js, page.css and the licences of what is in them.
import { build } from "esbuild";
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";

const out = new URL("../src/watchbill_collector/web/dist/", import.meta.url).pathname;
const bundled = ["preact", "@preact/signals", "@preact/signals-core", "uplot"];

await rm(out, { recursive: true, force: true });
await mkdir(out, { recursive: true });
await build({
  entryPoints: ["src/page.tsx"],
  outdir: out,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  logLevel: "warning",
});
await cp("src/index.html", `${out}index.html`);
await cp("src/icon.svg", `${out}icon.svg`);

const licences = [];
for (const name of bundled) {
  const folder = `node_modules/${name}`;
  const { version, license } = JSON.parse(await readFile(`${folder}/package.json`, "utf8"));
  licences.push(`${name} ${version} (${license})\n\n${await readFile(`${folder}/LICENSE`, "utf8")}`);
}
await writeFile(`${out}licences.txt`, licences.join("\n----\n\n"));
