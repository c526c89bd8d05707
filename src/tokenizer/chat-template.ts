import { Template } from "@huggingface/jinja";
import { pythonStrip, type Side } from "../../backends/wgsl/runtime/text/python-strip.ts";
import { inputError, oneLine } from "../checkpoint/json.ts";

/** One turn of a conversation; Gemma's templates know the roles `user`, `assistant` and, Gemma 3 only, `system`. */
export interface Message {
  readonly role: string;
  readonly content: string;
}

/** What a template throws with `raise_exception`, told apart from errors in the template itself. */
class Refusal extends Error {}

/** Our functions, under the names the rewritten template calls; the library's own names cannot be redefined. */
const OURS = {
  raise_exception: "gemmac_raise",
  strip: "gemmac_strip",
  lstrip: "gemmac_lstrip",
  rstrip: "gemmac_rstrip",
} as const;

/** A checkpoint's chat template, ready to render. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #file: string;
  readonly #specials: Readonly<Record<string, string>>;

  /** `file` names the template's source in messages; `specials` are its variables, such as `bos_token`. */
  constructor(source: string, file: string, specials: Readonly<Record<string, string>>) {
    this.#file = file;
    this.#specials = specials;
    this.#template = attempt(file, () => {
      const template = new Template(source);
      rewrite(template.parsed);
      return template;
    });
  }

  /** The conversation as the text the model was trained on. */
  render(messages: readonly Message[], addGenerationPrompt: boolean): string {
    return attempt(this.#file, () =>
      this.#template.render({
        ...this.#specials,
        messages,
        add_generation_prompt: addGenerationPrompt,
        [OURS.raise_exception]: (message: unknown) => {
          throw new Refusal(String(message));
        },
        [OURS.strip]: stripper("strip"),
        [OURS.lstrip]: stripper("lstrip"),
        [OURS.rstrip]: stripper("rstrip"),
      }),
    );
  }
}

/** Runs `body`, turning what it throws into one line for the user. */
function attempt<T>(file: string, body: () => T): T {
  try {
    return body();
  } catch (cause) {
    const reason = oneLine(cause);
    if (cause instanceof Refusal)
      throw inputError(file, `the chat template refuses: ${reason}`, "change the messages", { cause });
    const next = "use the chat template of the model's own repository";
    throw inputError(file, `the chat template fails: ${reason}`, next, { cause });
  }
}

function stripper(side: Side): (text: unknown, chars?: string) => string {
  return (text, chars) => {
    if (typeof text !== "string") throw new Refusal("a message's content must be text");
    return pythonStrip(text, side, chars);
  };
}

/** As much of a node of the library's syntax tree as the rewriting reads; the library publishes no usable type. */
interface Node {
  readonly type?: string;
  readonly value?: unknown;
  readonly operand?: Node;
  readonly filter?: Node;
  readonly callee?: Node;
  readonly args?: readonly Node[];
  readonly object?: Node;
  readonly property?: Node;
  readonly computed?: boolean;
}

/**
 * Points the parsed template's `trim` filters and `strip` methods at Python's stripping: the library uses
 * JavaScript's `trim` and ignores the argument of `strip`. And `raise_exception` at ours: the library's throws the
 * same plain Error as a fault in the template.
 */
function rewrite(node: Node): void {
  for (const child of Object.values(node)) if (typeof child === "object" && child !== null) rewrite(child);
  const { type, value, operand, filter, callee, args = [] } = node;
  if (type === "Identifier" && value === "raise_exception")
    Object.assign(node, { value: OURS.raise_exception });
  else if (type === "FilterExpression" && filter?.value === "trim") become(node, "strip", [operand]);
  else if (type === "FilterExpression" && filter?.callee?.value === "trim")
    become(node, "strip", [operand, ...(filter.args ?? [])]);
  else if (type === "CallExpression" && callee?.type === "MemberExpression" && !callee.computed) {
    const method = callee.property?.value;
    if (method === "strip" || method === "lstrip" || method === "rstrip")
      become(node, method, [callee.object, ...args]);
  }
}

/** Makes the node, in place, a call of our function for that kind of stripping. */
function become(node: Node, side: Side, args: readonly (Node | undefined)[]): void {
  const callee: Node = { type: "Identifier", value: OURS[side] };
  Object.assign(node, { type: "CallExpression", callee, args });
}
