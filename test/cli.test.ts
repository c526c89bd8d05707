import { spawn } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { registry } from "../ir/op.ts";
import "../backends/onnx/index.ts"; // the ops of its own are listed too
import { openWeights } from "../src/checkpoint/checkpoint.ts";
import { binary, type Done, gemmac as run, start as startNode, tiny } from "./support/workbench.ts";

const root = join(import.meta.dirname, "..");
const demo = join(root, "examples/gemma-kjv-2m");
let tmp: string;
beforeAll(async () => void (tmp = await mkdtemp(join(tmpdir(), "gemmac-cli-"))));
afterAll(() => rm(tmp, { recursive: true }));

/** Starts the command line as a process of its own. */
const start = (args: readonly string[], input = "") => startNode(tmp, [binary, ...args], input);
const gemmac = (...args: string[]): Promise<Done> => run(tmp, args);

/** One line for the user, and nothing else. */
const complaint = (text: string) => expect.stringMatching(new RegExp(`^gemmac: [^\n]*${text}[^\n]*\n$`));

describe("help", () => {
  const commands = ["compile", "run", "verify", "logits", "inspect", "ops"];

  test("lists the commands and exit codes", async () => {
    const { code, out, err } = await gemmac("--help");
    expect([code, err]).toEqual([0, ""]);
    for (const command of commands) expect(out).toMatch(new RegExp(`^  ${command}\\b`, "m"));
    for (const exitCode of [0, 1, 2, 3, 4, 5, 130]) expect(out).toMatch(new RegExp(`^  ${exitCode} `, "m"));
    expect(out.split("\n").every((line) => line.length <= 80)).toBe(true);
  });

  test.each(commands)("%s has examples", async (command) => {
    const { code, out, err } = await gemmac(command, "--help");
    expect([code, err]).toEqual([0, ""]);
    expect(out).toMatch(new RegExp(`Examples:\n  gemmac ${command}\\b`));
  });

  test("the version is the package's", async () => {
    const { version } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
    expect(await gemmac("--version")).toEqual({ code: 0, out: `${version}\n`, err: "" });
  });

  test("no command at all prints the help, as an error", async () => {
    const { code, out, err } = await gemmac();
    expect([code, out]).toEqual([2, ""]);
    expect(err).toMatch(/^Usage: gemmac/);
  });
});

describe("errors are one line on stderr and an exit code", () => {
  test.each<[number, string, string[]]>([
    [2, "unknown command 'frob'; see gemmac --help", ["frob"]],
    [2, "unknown option '--bogus'; see gemmac run --help", ["run", "x", "--bogus"]],
    [2, "'-t, --target <names>' not specified; see gemmac compile --help", ["compile", "x", "-o", "y"]],
    [2, "It must be an integer", ["run", "x", "--prompt", "a", "--seed", "z"]],
    [2, "It must be token ids", ["logits", "x", "--ids", "2,-5", "--out", "y"]],
    [2, "there is no target frob", ["compile", tiny, "--target", "frob", "-o", "y"]],
    [
      2,
      "heads do not divide over model=3",
      ["plan", "gemma-7b", "--target", "stablehlo", "--mesh", "model=3"],
    ],
    [2, "--chat goes with neither", ["run", "x", "--chat", "--prompt", "y"]],
    [2, 'no op is called "frob"', ["ops", "frob"]],
    [3, "pass quantize: block is -1", ["plan", demo, "--target", "onnx", "--pass", "quantize{block=-1}"]],
    [3, "pass quantize: block is -1", ["diff", demo, "--pass", "quantize{block=-1}"]],
    [3, "pass quantize: block is -1", ["view", demo, "--passes", "quantize{block=-1}", "-o", "x.html"]],
    [
      2,
      "is no growing cache",
      ["compile", demo, "-t", "c", "-o", "y", "--passes", "insert-kv-cache{capacity=8}"],
    ],
    [3, "there is no such folder", ["inspect", "nowhere"]],
    [3, "there is no such file", ["inspect", "nowhere.ir"]],
    [3, "there is no such folder", ["compile", "nowhere", "--target", "onnx", "-o", "y"]],
    [3, "tokenizer.json: not found", ["run", tiny, "--prompt", "a"]],
    [3, "no chat template", ["run", demo, "--chat"]],
    [3, "token id 512 is outside", ["logits", tiny, "--ids", "2,512", "--out", "y"]],
    [3, "nowhere: there is no such file or folder", ["logits", tiny, "--ids", "2", "--out", "nowhere/y"]],
    [3, "has no manifest.json", ["verify", tiny, "--against", tiny]],
  ])("%i: %s", async (exitCode, text, args) => {
    const { code, out, err } = await gemmac(...args);
    expect([code, out]).toEqual([exitCode, ""]);
    expect(err).toEqual(complaint(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")));
    const twin = await gemmac(...args, "--json");
    if (args.includes("--chat")) return;
    expect(twin.code).toBe(exitCode);
    expect(JSON.parse(twin.out)).toMatchObject({ error: { exitCode, message: expect.any(String) } });
  });

  test("a text longer than the context is refused", async () => {
    const { code, err } = await start(["run", demo], "And God said. ".repeat(100)).done;
    expect(code).toBe(3);
    expect(err).toEqual(complaint("context is 256"));
  });

  test.runIf(process.platform === "linux")("a full disk is the environment's fault", async () => {
    const child = spawn("sh", ["-c", `"$0" "$1" ops > /dev/full`, process.execPath, binary]);
    let err = "";
    child.stderr.setEncoding("utf8").on("data", (text) => void (err += text));
    expect(await new Promise((resolve) => child.on("close", resolve))).toBe(5);
    expect(err).toEqual(complaint("the disk is full"));
  });

  test("a reader that goes away is no error", async () => {
    const { child, done } = start(["ops", "--json"]);
    child.stdout.destroy();
    expect(await done).toMatchObject({ code: 0, err: "" });
  });
});

describe("ops", () => {
  test("all are listed, within 80 columns", async () => {
    const { code, out } = await gemmac("ops");
    expect(code).toBe(0);
    const names = [...registry.keys()];
    for (const name of names) expect(out).toMatch(new RegExp(`^  ${name} `, "m"));
    expect(out.split("\n").every((line) => line.length <= 80)).toBe(true);
    expect(JSON.parse((await gemmac("ops", "--json")).out)).toHaveLength(names.length);
  });

  test("one is told in full", async () => {
    const { code, out, err } = await gemmac("ops", "softmax");
    expect([code, err]).toEqual([0, ""]);
    expect(out).toContain("softmax(x)  composite");
    expect(out).toContain("softmax %x : f32[2,3]");
    expect(out).toContain("%4 = div %2, %3 : f32[2,3]");
    const doc = JSON.parse((await gemmac("ops", "attention", "--json")).out);
    expect(doc.attributes).toContainEqual({ name: "scale", kind: "float", default: null });
    expect(doc.attributes).toContainEqual({ name: "causal", kind: "bool", default: "true" });
  });
});

describe("inspect", () => {
  test("a checkpoint: where each key comes from", async () => {
    const { code, out, err } = await gemmac("inspect", tiny);
    expect([code, err]).toEqual([0, ""]);
    expect(out).toMatch(/^ {2}vocab_size +512 +stated$/m);
    expect(out).toMatch(/^ {2}tie_word_embeddings +true +defaulted$/m);
    expect(out).toMatch(/^ {2}hidden_act +gelu_pytorch_tanh +derived +gelu means tanh/m);
    expect(out).toMatch(/^ {2}tokenizer +none$/m);
    expect(
      out
        .split("\n")
        .slice(1)
        .every((line) => line.length <= 80),
    ).toBe(true);
    const json = JSON.parse((await gemmac("inspect", tiny, "--json")).out);
    expect(json).toMatchObject({ kind: "checkpoint", family: "gemma", tokenizer: null, parameters: 242_112 });
    expect(json.bytes).toEqual({ f32: 4 * 242_112 });
    expect(json.stop).toEqual([{ id: 1, token: null }]);
  });

  test("a checkpoint with a tokenizer", async () => {
    const json = JSON.parse((await gemmac("inspect", demo, "--json")).out);
    expect(json).toMatchObject({ tokenizer: { size: 1024, chatTemplate: false }, stop: [] });
    expect(json.generation).toMatchObject({ sample: true, temperature: 0.7, maxNew: 96 });
  });

  test("a file of IR", async () => {
    const path = join(tmp, "graph.ir");
    const good =
      "weight %w : f32[4,8]\ngraph tiny(%x: f32[T,8]) {\n  %0 = linear %x, %w : f32[T,4]\n  return y=%0\n}\n";
    await writeFile(path, good);
    const { code, out } = await gemmac("inspect", path);
    expect(code).toBe(0);
    expect(out).toMatch(/^ {2}linear +1$/m);
    expect(JSON.parse((await gemmac("inspect", path, "--json")).out)).toMatchObject({
      kind: "ir",
      inputs: { x: "f32[T,8]" },
      weights: { w: "f32[4,8]" },
      outputs: { y: "f32[T,4]" },
      ops: { linear: 1 },
    });
    await writeFile(path, good.replace("f32[T,4]", "f32[T,5]"));
    const bad = await gemmac("inspect", path);
    expect([bad.code, bad.out]).toEqual([3, ""]);
    expect(bad.err).toEqual(complaint("line 3: linear gives f32.T,4., not f32.T,5."));
  });
});

describe("logits", () => {
  test("are transformers' on the reference interpreter", async () => {
    const golden = JSON.parse(await readFile(join(tiny, "golden.json"), "utf8"));
    const prompt = golden.prompts.find(({ id }: { id: string }) => id === "p1");
    const atol: number = golden.fp64_check.suggested_atol;
    const dir = await mkdtemp(join(tmp, "logits-"));
    const out = join(dir, "model.safetensors");
    const args = ["logits", tiny, "--ids", prompt.input_ids.join(), "--generate", "3", "--out", out];
    const { code, out: text } = await gemmac(...args, "--json");
    expect(code).toBe(0);
    expect(JSON.parse(text).generatedIds).toEqual(prompt.generated_ids.slice(0, 3));

    await mkdir(join(dir, "golden"));
    await cp(join(tiny, "golden.safetensors"), join(dir, "golden/model.safetensors"));
    const [got, want] = [await tensors(dir), await tensors(join(dir, "golden"))];
    expect([...new Int32Array(got.get("generated_ids") ?? [])]).toEqual(prompt.generated_ids.slice(0, 3));
    for (const [name, rows] of [
      ["logits", 7],
      ["decode_logits", 3],
    ] as const) {
      const [a, b] = [got, want].map((all, i) => new Float32Array(all.get(i ? `p1.${name}` : name) ?? []));
      expect(a).toHaveLength(rows * 512);
      expect(Math.max(...(a ?? []).map((x, i) => Math.abs(x - (b?.[i] ?? Number.NaN))))).toBeLessThan(atol);
    }

    const again = await gemmac(...args);
    expect([again.code, again.out]).toEqual([2, ""]);
    expect(again.err).toEqual(complaint("exists already; .*--force"));
    expect(await gemmac(...args, "--force")).toMatchObject({ code: 0, err: "" });
    expect((await readdir(dir)).sort()).toEqual(["golden", "model.safetensors"]);
  });
});

async function tensors(dir: string): Promise<Map<string, ArrayBuffer>> {
  const { weights } = await openWeights(dir);
  try {
    const found = new Map<string, ArrayBuffer>();
    for (const name of weights.names()) {
      const bytes = new Uint8Array(weights.info(name)?.bytes ?? 0);
      await weights.read(name, 0, bytes);
      found.set(name, bytes.buffer);
    }
    return found;
  } finally {
    await weights.close();
  }
}

describe("from checkpoint to text", () => {
  let artifact: string;
  let compiled: Done;
  beforeAll(async () => {
    artifact = join(tmp, "demo-onnx");
    compiled = await gemmac("compile", demo, "--target", "onnx", "-o", artifact, "--json");
  });

  test("compile prints its report, and no progress off a terminal", async () => {
    expect([compiled.code, compiled.err]).toEqual([0, ""]);
    const report = JSON.parse(compiled.out);
    expect(report.out).toBe(artifact);
    const files: string[] = report.targets[0].files.map(({ path }: { path: string }) => path);
    expect(files).toContain("manifest.json");
    expect(files).toContain("tokenizer.json");

    const again = await gemmac("compile", demo, "--target", "onnx", "-o", artifact);
    expect(again).toMatchObject({ code: 2, out: "", err: complaint("exists already") });
    const forced = await gemmac("compile", demo, "--target", "onnx", "-o", artifact, "--force");
    expect([forced.code, forced.err]).toEqual([0, ""]);
    expect(forced.out).toMatch(/^ {2}tokenizer\.json +54\.3 kB$/m);
    expect((await readdir(tmp)).filter((name) => name.includes("partial"))).toEqual([]);
  });

  test("inspect reads the manifest", async () => {
    const { code, out } = await gemmac("inspect", artifact);
    expect(code).toBe(0);
    expect(out).toMatch(/^ {2}target +onnx$/m);
    const json = JSON.parse((await gemmac("inspect", artifact, "--json")).out);
    expect(json).toMatchObject({ kind: "artifact", target: "onnx", model: { family: "gemma" } });
  });

  test("run streams text to stdout and tells its speed on stderr", async () => {
    const golden = JSON.parse(await readFile(join(import.meta.dirname, "data/demo/golden.json"), "utf8"));
    const [prompt] = golden.prompts;
    const args = ["run", artifact, "--prompt", prompt.text, "--greedy", "--max-tokens", "12"];
    const { code, out, err } = await gemmac(...args);
    expect(code).toBe(0);
    expect(err).toMatch(/^12 tokens, [\d.]+ tokens\/s, artifact [\d.]+ MB\n$/);
    const json = JSON.parse((await gemmac(...args, "--json")).out);
    expect(json).toMatchObject({
      promptIds: prompt.input_ids,
      ids: prompt.greedy_ids.slice(0, 12),
      stop: "length",
    });
    expect(out).toBe(`${json.text}\n`);
    const piped = await start(["run", artifact, "--greedy", "--max-tokens", "12"], `${prompt.text}\n`).done;
    expect(piped.out).toBe(out);
  });

  test("a seed draws the same text again, and the context's end is told", async () => {
    const args = ["run", artifact, "--prompt", "And", "--max-tokens", "1000", "--seed", "7"];
    const [first, second] = [await gemmac(...args), await gemmac(...args)];
    expect(first.out).toBe(second.out);
    expect(first.err).toMatch(/^gemmac: stopped at the end of the model's context, 256 tokens\n255 tokens, /);
  });

  test("chat keeps the history", async () => {
    const dir = join(tmp, "demo-chat");
    await cp(artifact, dir, { recursive: true });
    const template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}And he said,";
    await writeFile(join(dir, "chat_template.jinja"), template);
    const flags = ["--greedy", "--max-tokens", "8"];
    const { code, out, err } = await start(["run", dir, "--chat", ...flags], "Who?\n\nWhere?\n").done;
    expect(code).toBe(0);
    expect(err.match(/^8 tokens/gm)).toHaveLength(2);
    const [first = ""] = out.split("\n");
    const prompt = `user: Who?\nassistant: ${first}\nuser: Where?\nAnd he said,`;
    const fresh = await gemmac("run", dir, "--prompt", prompt, ...flags);
    expect(out).toBe(`${first}\n${fresh.out}`);
  });

  test("verify passes, and exits with 4 when the tolerance is breached", async () => {
    const args = ["verify", artifact, "--against", demo, "--prompt", "In the beginning", "--ids", "5,6,7"];
    const { code, out, err } = await gemmac(...args);
    expect([code, err]).toEqual([0, ""]);
    expect(out).toMatch(/^ {2}same top token +100\.00 %$/m);
    const breach = await gemmac(...args, "--tolerance", "0", "--json");
    expect(breach).toMatchObject({ code: 4, err: complaint("does not compute what") });
    expect(JSON.parse(breach.out)).toMatchObject({ ok: false, tolerance: 0 });
  });
});

describe("Ctrl-C", () => {
  /** A checkpoint whose weights are one hole in a file: large to compile, and made in no time. */
  async function hollow(dir: string): Promise<void> {
    await mkdir(dir);
    const [vocab_size, hidden_size, small] = [200_000, 1024, 64];
    const sizes = { vocab_size, hidden_size, intermediate_size: small, head_dim: small };
    const counts = { num_hidden_layers: 1, num_attention_heads: 1, num_key_value_heads: 1 };
    await writeFile(join(dir, "config.json"), JSON.stringify({ model_type: "gemma", ...sizes, ...counts }));
    const up = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"];
    const shapes: [string, number[]][] = [
      ["embed_tokens", [vocab_size, hidden_size]],
      ["norm", [hidden_size]],
      ...["input_layernorm", "post_attention_layernorm"].map((n): [string, number[]] => [
        `layers.0.${n}`,
        [hidden_size],
      ]),
      ...up.map((n): [string, number[]] => [`layers.0.${n}`, [small, hidden_size]]),
      ...["self_attn.o_proj", "mlp.down_proj"].map((n): [string, number[]] => [
        `layers.0.${n}`,
        [hidden_size, small],
      ]),
    ];
    let at = 0;
    const entries = shapes.map(([name, shape]) => {
      const data_offsets = [at, (at += 2 * shape.reduce((a, b) => a * b, 1))];
      return [`model.${name}.weight`, { dtype: "BF16", shape, data_offsets }];
    });
    const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(header.length));
    const path = join(dir, "model.safetensors");
    await writeFile(path, Buffer.concat([length, header]));
    await truncate(path, 8 + header.length + at);
  }

  test("during compile leaves nothing behind", async () => {
    const dir = await mkdtemp(join(tmp, "interrupt-"));
    const checkpoint = join(dir, "hollow");
    await hollow(checkpoint);
    const { child, done } = start(["compile", checkpoint, "--target", "onnx", "-o", join(dir, "out")]);
    const writing = async () =>
      (await readdir(dir, { recursive: true })).some((name) => name.endsWith("_data"));
    while (child.exitCode === null && !(await writing()))
      await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill("SIGINT");
    expect(await done).toEqual({ code: 130, out: "", err: "gemmac: interrupted\n" });
    expect(await readdir(dir)).toEqual(["hollow"]);
  });

  test("during run ends the text", async () => {
    const { child, done } = start(["run", demo, "--prompt", "And", "--max-tokens", "250"]);
    await new Promise((resolve) => child.stdout.once("data", resolve));
    child.kill("SIGINT");
    const { code, out, err } = await done;
    expect([code, err]).toEqual([130, "gemmac: interrupted\n"]);
    expect(out.endsWith("\n")).toBe(true);
  });
});
