import { pythonStrip } from "./python-strip.ts";

/** One turn of a conversation. Gemma's templates know `user`, `assistant` and, some of them, `system`. */
export interface Message {
  readonly role: "user" | "assistant" | "system";
  readonly content: string;
}

/** What stands around the content of a turn. */
export interface Around {
  readonly before: string;
  readonly after: string;
  /** Whether the content loses the white space at its ends. */
  readonly trim: boolean;
}

/** A chat template as what it puts around turns, which is all that Gemma's do. Compiled from the checkpoint's. */
export interface Turns {
  /** What begins every conversation: BOS, as text. */
  readonly start: string;
  readonly user: Around;
  readonly assistant: Around;
  /** A system message in first place, with the user's turn after it; its `after` takes the place of that turn's `before`. */
  readonly system: Around | { readonly refused: string };
  /** What is said when the roles do not alternate, beginning with the user; null when any order is fine. */
  readonly alternate: string | null;
  /** The opening of the model's turn. */
  readonly open: string;
}

/** The conversation as the text the model was trained on. Throws an Error in words when the template refuses it. */
export function renderTurns(
  turns: Turns,
  messages: readonly Message[],
  { addGenerationPrompt = true }: { readonly addGenerationPrompt?: boolean } = {},
): string {
  let text = turns.start;
  let rest = messages;
  let before: string | undefined;
  const first = messages[0];
  if (first?.role === "system") {
    if ("refused" in turns.system) throw new Error(turns.system.refused);
    if (messages[1]?.role !== "user") throw new Error("a system message must be followed by the user's");
    text += turns.system.before + trimmed(turns.system, first.content);
    before = turns.system.after;
    rest = messages.slice(1);
  }
  for (const [i, { role, content }] of rest.entries()) {
    if (role !== "user" && role !== "assistant")
      throw new Error(
        role === "system" ? "a system message must come first" : `there is no role ${String(role)}`,
      );
    if (turns.alternate !== null && (role === "user") !== (i % 2 === 0)) throw new Error(turns.alternate);
    const around = turns[role];
    text += (before ?? around.before) + trimmed(around, content) + around.after;
    before = undefined;
  }
  return addGenerationPrompt ? text + turns.open : text;
}

const trimmed = ({ trim }: Around, content: string): string => (trim ? pythonStrip(content) : content);
