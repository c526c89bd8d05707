// npm run test:clients: our artifacts in other people's programs. transformers.js (npm) and onnxruntime-genai (PyPI) are
// installed in a folder of their own on first use, and skipped, saying so, where they cannot be. Ends with 1 where
// tokens differ.
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { compile, generate, openModel, parsePipeline } from "../../dist/src/index.js";
import { installed } from "../bench/packages.mjs";

const at = (path) => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const json = (path) => JSON.parse(readFileSync(path, "utf8"));
const cache = join(tmpdir(), "gemmac-bench");
const scratch = mkdtempSync(join(tmpdir(), "gemmac-clients-"));

/** Golden prompts under one shape: text where there is a tokenizer, ids, and the greedy continuation. */
const models = [
  {
    name: "demo",
    checkpoint: at("examples/gemma-kjv-2m"),
    prompts: json(at("test/data/demo/golden.json")).prompts.map((p) => ({
      text: p.text,
      ids: p.input_ids,
      greedy: p.greedy_ids,
      decoded: p.decoded,
    })),
  },
  ...["gemma1-mqa", "gemma1-mha", "gemma2", "gemma3"].map((name) => ({
    name,
    checkpoint: at(`test/data/models/${name}`),
    prompts: json(at(`test/data/models/${name}/golden.json`)).prompts.map((p) => ({
      ids: p.input_ids,
      greedy: p.generated_ids,
    })),
  })),
];

const counts = { ok: 0, failed: 0, skipped: 0 };
function check(what, holds, more = "") {
  counts[holds ? "ok" : "failed"]++;
  console.log(`${holds ? "ok  " : "FAIL"} ${what}${holds ? "" : `: ${more}`}`);
}
function skip(what, why) {
  counts.skipped++;
  console.log(`SKIPPED ${what}: ${why}`);
}
const same = (a, b) => a.length === b.length && a.every((x, i) => x === b[i]);
/** A client stops after the first token that ends a text; the goldens go on. */
const upTo = (ids, stops) => {
  const end = ids.findIndex((id) => stops.includes(id));
  return end < 0 ? ids : ids.slice(0, end + 1);
};

try {
  const artifacts = [];
  for (const model of models)
    for (const profile of ["standard", "ort"])
      for (const [weights, passes] of [
        ["f32", ""],
        ["int8", "quantize{scheme=int8,block=32}"],
      ]) {
        const id = `${model.name}-${profile}-${weights}`;
        const out = join(scratch, id);
        await compile(model.checkpoint, {
          targets: ["onnx"],
          out,
          profile,
          verify: false,
          insert: parsePipeline(passes),
        });
        artifacts.push({
          ...model,
          id,
          out,
          profile,
          weights,
          expected: weights === "f32" ? model.prompts.map((p) => p.greedy) : await own(out, model.prompts),
        });
      }
  await transformersJs(artifacts);
  await genai(artifacts);
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
console.log(`${counts.ok} ok, ${counts.failed} failed, ${counts.skipped} skipped`);
if (counts.failed) process.exitCode = 1;

/** What our own session continues each prompt with. */
async function own(out, prompts) {
  const model = await openModel(out);
  const all = [];
  for (const { ids, greedy } of prompts) {
    model.session.reset();
    const made = [];
    for await (const { id } of generate(model.session, ids, { maxTokens: greedy.length })) made.push(id);
    all.push(made);
  }
  await model.close();
  return all;
}

async function transformersJs(artifacts) {
  const found = installed(join(cache, "deps"), "@huggingface/transformers");
  if (found.missing) return skip("transformers.js", `it cannot be installed: ${found.missing}`);
  const { env, pipeline, AutoModelForCausalLM, Tensor } = await import(found.url);
  env.allowRemoteModels = false;
  env.localModelPath = scratch;
  console.log(`transformers.js ${found.version}`);
  const int64 = (ids) => new Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]);
  for (const { id, out, prompts, expected } of artifacts) {
    const stops = [json(join(out, "generation_config.json")).eos_token_id ?? []].flat();
    const results = [];
    if (prompts[0].text === undefined) {
      const model = await AutoModelForCausalLM.from_pretrained(id, { dtype: "fp32" });
      for (const { ids, greedy } of prompts) {
        const inputs = int64(ids);
        const mask = int64(ids.map(() => 1));
        const made = await model.generate({
          inputs,
          attention_mask: mask,
          max_new_tokens: greedy.length,
          do_sample: false,
        });
        results.push([...made.data].map(Number).slice(ids.length));
      }
      await model.dispose();
    } else {
      const pipe = await pipeline("text-generation", id, { dtype: "fp32" });
      for (const { text, greedy } of prompts) {
        const [{ generated_text }] = await pipe(text, { max_new_tokens: greedy.length, do_sample: false });
        results.push(
          Array.from(pipe.tokenizer(generated_text, { add_special_tokens: false }).input_ids.data, Number),
        );
      }
      await pipe.dispose();
      // The pipeline gives text. Its ids are compared as text too: the same ids need not come back from it.
      const own = await openModel(out);
      const tokenizer = await own.tokenizer();
      const decode = (ids) => tokenizer.decode(ids);
      await own.close();
      for (const [i, { ids }] of prompts.entries()) {
        const [made, wanted] = [decode(results[i]), decode([...ids, ...expected[i]])];
        check(
          `transformers.js  ${id}  prompt ${i} (text)`,
          made === wanted,
          `${JSON.stringify(made)} is not ${JSON.stringify(wanted)}`,
        );
      }
      const model = await AutoModelForCausalLM.from_pretrained(id, { dtype: "fp32" });
      for (const [i, { ids, greedy }] of prompts.entries()) {
        const made = await model.generate({
          inputs: int64(ids),
          attention_mask: int64(ids.map(() => 1)),
          max_new_tokens: greedy.length,
          do_sample: false,
        });
        results[i] = [...made.data].map(Number).slice(ids.length);
      }
      await model.dispose();
    }
    for (const [i, made] of results.entries()) {
      const wanted = upTo(expected[i], stops);
      check(
        `transformers.js  ${id}  prompt ${i} (${wanted.length} ids)`,
        same(made, wanted),
        `${made} is not ${wanted}`,
      );
    }
  }
}

async function genai(artifacts) {
  const venv = join(cache, "genai");
  const python = join(venv, process.platform === "win32" ? "Scripts/python.exe" : "bin/python3");
  const run = (command, args, input) =>
    spawnSync(command, args, { encoding: "utf8", input, timeout: 600_000 });
  const ready = () => existsSync(python) && run(python, ["-c", "import onnxruntime_genai"]).status === 0;
  if (!ready()) {
    const made = run("python3", ["-m", "venv", venv]);
    if (made.status !== 0)
      return skip("onnxruntime-genai", `no Python environment: ${made.error ?? made.stderr}`);
    const pip = run(python, ["-m", "pip", "install", "--quiet", "onnxruntime-genai"]);
    if (!ready())
      return skip("onnxruntime-genai", `no wheel for this machine: ${pip.stderr.trim().split("\n").at(-1)}`);
  }
  console.log(
    `onnxruntime-genai ${run(python, ["-c", "import onnxruntime_genai as g; print(g.__version__)"]).stdout.trim()}`,
  );
  for (const { id, out, prompts, expected } of artifacts) {
    const config = json(join(out, "genai_config.json"));
    const requests = prompts
      .map(({ ids, greedy }) => JSON.stringify({ ids, count: greedy.length }))
      .join("\n");
    const { status, signal, stdout, stderr } = run(python, [at("test/external/genai.py"), out], requests);
    const answers = stdout
      .trim()
      .split("\n")
      .filter(Boolean)
      .map((l) => JSON.parse(l));
    if (status !== 0)
      check(`genai  ${id}`, false, `ended with ${status ?? signal}: ${stderr.trim().split("\n").at(-1)}`);
    for (const [i, made] of answers.entries()) {
      const wanted = upTo(expected[i], [config.model.eos_token_id].flat());
      check(
        `genai  ${id}  prompt ${i} (${wanted.length} ids)`,
        same(made, wanted),
        `${made} is not ${wanted}`,
      );
    }
  }
}

