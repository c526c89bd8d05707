// node test/external/package.mjs, after npm run build: a WGSL artifact as an npm package. It is packed, installed into a project
// of its own, used from TypeScript (tsc --strict) and run in Node on Dawn. Says what is skipped. Ends with 1 where it fails.
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile } from "../../dist/src/compile.js";

const at = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const [{ text, decoded }] = JSON.parse(readFileSync(at("test/data/demo/golden.json"), "utf8")).prompts;
const scratch = mkdtempSync(join(tmpdir(), "gemmac-package-"));
const project = join(scratch, "project");
const run = (command, args, cwd = project) => execFileSync(command, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
const write = (path, content) => writeFileSync(join(project, path), content);

const uses = `
import { GemmaError, load, model, type Gemma, type Progress } from "gemma-kjv-2m-webgpu";

const layers: 4 = model.layers;
const shown: string[] = [];
export async function speak(gpu: object | undefined, prompt: string): Promise<string> {
  try {
    const gemma: Gemma = await load(undefined, { gpu, onProgress: ({ stage, done, total }: Progress) => shown.push(\`\${stage} \${done / total}\`) });
    let said = prompt;
    for await (const piece of gemma.generate(prompt, { temperature: 0, maxTokens: 16 })) said += piece;
    const scores: Float32Array = await gemma.logits(gemma.tokens(prompt));
    if (scores.length !== model.vocab || gemma.info.layers !== layers || shown.length === 0) throw new Error("numbers are not those of the types");
    gemma.dispose();
    return said;
  } catch (e) {
    if (e instanceof GemmaError) throw new Error(\`\${e.trouble}: \${e.message}; \${e.next}\`);
    throw e;
  }
}
// @ts-expect-error: a temperature is a number
export const wrong = (gemma: Gemma) => gemma.chat([{ role: "user", content: "" }], { temperature: "hot" });
`;
const main = `
import { create, globals } from "webgpu";
import { speak } from "./speak.js";
Object.assign(globalThis, globals);
globalThis.dawn = create([]); // collected as garbage, it takes the process with it
if (await globalThis.dawn.requestAdapter()) console.log(await speak(globalThis.dawn, ${JSON.stringify(text)}));
else console.log("no adapter");
`;

try {
  mkdirSync(project);
  const { out } = await compile(at("examples/gemma-kjv-2m"), { targets: ["wgsl"], out: join(scratch, "demo"), verify: false });
  const [{ filename, files }] = JSON.parse(run("npm", ["pack", "--json", "--pack-destination", scratch], out));
  for (const needed of ["model.js", "model.d.ts", "chat.html", "program.json", "tokenizer.json", "weights/0000.bin"])
    if (!files.some((f) => f.path === needed)) throw new Error(`${filename} lacks ${needed}`);
  write("package.json", '{ "type": "module", "private": true }\n');
  run("npm", ["install", "--offline", "--no-audit", "--no-fund", join(scratch, filename)]);
  console.log(`ok   ${filename} installs`);

  write("speak.ts", uses);
  const options = { strict: true, target: "es2022", module: "nodenext", lib: ["es2022", "dom"], types: [] };
  write("tsconfig.json", JSON.stringify({ compilerOptions: options, files: ["speak.ts"] }));
  run(process.execPath, [at("node_modules/typescript/bin/tsc"), "-p", "."]);
  console.log("ok   its types compile, and refuse what is wrong");

  write("main.mjs", main.replace('from "webgpu"', `from ${JSON.stringify(new URL("../../node_modules/webgpu/index.js", import.meta.url).href)}`));
  const said = run(process.execPath, ["main.mjs"]).trim();
  if (said === "no adapter") console.log("SKIPPED running the package in Node: Dawn finds no adapter; run sh .ci/lavapipe.sh and name its driver");
  else if (said.length > text.length && decoded.startsWith(said)) console.log(`ok   it speaks in Node: ${JSON.stringify(said)}`);
  else throw new Error(`in Node it says ${JSON.stringify(said)}`);
} catch (e) {
  console.log(`FAIL the npm package: ${[e.message, e.stdout, e.stderr].filter(Boolean).join("\n")}`);
  process.exitCode = 1;
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
