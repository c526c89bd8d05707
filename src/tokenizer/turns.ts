import {
  type Around,
  type Message,
  renderTurns,
  type Turns,
} from "../../backends/wgsl/runtime/text/turns.ts";
import { UserError } from "../../ir/error.ts";

/** A template, rendering these messages with or without the opening of the model's turn. Throws UserError. */
export type Render = (messages: readonly Message[], addGenerationPrompt: boolean) => string;

const user = (content: string): Message => ({ role: "user", content });
const assistant = (content: string): Message => ({ role: "assistant", content });
const system = (content: string): Message => ({ role: "system", content });

/**
 * Finds what a chat template puts around turns, so that an artifact can render conversations without a template
 * engine. The template is asked with marked messages, and what is found is held against it on a set of
 * conversations. Throws UserError when the template does more than that.
 */
export function compileTemplate(render: Render): Turns {
  const beyond = (what: string) =>
    new UserError(
      "input",
      `the chat template cannot be compiled for the artifact: ${what}`,
      "use the library's Tokenizer to render conversations, and generate() with the text",
    );
  const [A, B, C, S] = ["gemmacUserOne", "gemmacModel", "gemmacUserTwo", "gemmacSystem"];
  const cut = (text: string, mark: string): [string, string] => {
    const at = text.indexOf(mark);
    if (at < 0 || text.indexOf(mark, at + 1) >= 0) throw beyond("a message's text is not in it once");
    return [text.slice(0, at), text.slice(at + mark.length)];
  };
  const grown = (long: string, short: string): string => {
    if (!long.startsWith(short)) throw beyond("turns depend on those that follow");
    return long.slice(short.length);
  };
  const trims = (message: (content: string) => Message, before: readonly Message[], mark: string) =>
    !render([...before, message(`  ${mark}\n `)], false).includes(`  ${mark}\n `);

  const one = render([user(A)], false);
  const two = render([user(A), assistant(B)], false);
  const three = render([user(A), assistant(B), user(C)], false);
  const [modelBefore, modelAfter] = cut(grown(two, one), B);
  const [userBefore, userAfter] = cut(grown(three, two), C);
  const [opening] = cut(one, A);
  if (!opening.endsWith(userBefore)) throw beyond("the first turn is unlike later ones");
  const start = opening.slice(0, opening.length - userBefore.length);

  const refusal = (messages: readonly Message[]): string | undefined => {
    try {
      render(messages, true);
      return undefined;
    } catch (e) {
      if (e instanceof UserError) return /refuses: (.*)$/.exec(e.message)?.[1] ?? e.message;
      throw e;
    }
  };
  const systemAround = (): Around | { refused: string } => {
    const refused = refusal([system(S), user(A)]);
    if (refused !== undefined) return { refused };
    const [before, rest] = cut(render([system(S), user(A)], false), S);
    if (!rest.endsWith(A + userAfter)) throw beyond("a system message changes the user's turn");
    const trim = !render([system(`  ${S}\n `), user(A)], false).includes(`  ${S}\n `);
    return { before: grown(before, start), after: rest.slice(0, -(A + userAfter).length), trim };
  };
  const turns: Turns = {
    start,
    user: { before: userBefore, after: userAfter, trim: trims(user, [], A) },
    assistant: { before: modelBefore, after: modelAfter, trim: trims(assistant, [user(A)], B) },
    system: systemAround(),
    alternate: refusal([user(A), user(B)]) ?? null,
    open: grown(render([user(A)], true), one),
  };
  for (const messages of conversations) {
    const said = refusal(messages);
    for (const addGenerationPrompt of [true, false]) {
      let ours: string | undefined;
      try {
        ours = renderTurns(turns, messages, { addGenerationPrompt });
      } catch {
        ours = undefined;
      }
      // What the template allows and we refuse is an error in words; what we render must be what it renders.
      if (ours !== undefined && (said !== undefined || ours !== render(messages, addGenerationPrompt)))
        throw beyond(`it renders ${messages.map((m) => m.role).join(", ")} in a way of its own`);
    }
  }
  return turns;
}

const conversations: readonly (readonly Message[])[] = [
  [user("Hi")],
  [user("  Hi\u3000\n"), assistant("\n Hello. "), user("")],
  [user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
  [user("a"), user("b")],
  [assistant("a")],
  [assistant("a"), user("b")],
  [system("s"), user("a")],
  [system(" s\n"), user(" a "), assistant("b"), user("c")],
  [system("s"), assistant("a")],
  [system("s")],
  [user("a"), system("s"), user("b")],
  [user("<b>&amp; {{ x }} {% y %}</b>"), assistant("\\n \"quotes\" 'and' ünïcode 🙏")],
];
