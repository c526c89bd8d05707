import { createHash } from "node:crypto";
import type { TextFacts } from "../runtime/program.ts";
import { bundle, source } from "./bundle.ts";

export interface PageAbout {
  readonly name: string;
  readonly version: string;
  readonly bytes: number;
  readonly context: number;
  readonly text: TextFacts;
  /** Paths of licence files in the artifact. */
  readonly licences: readonly string[];
}

/**
 * `chat.html`: one page that loads `model.js` beside it. Its policy lets run the script in it and `model.js`, and
 * reach nothing but the server it came from.
 */
export function pageText({ name, version, bytes, context, text, licences }: PageAbout): string {
  const script = bundle("page/chat.ts").script;
  const style = source("page/chat.css");
  const canChat = !("missing" in text.chat);
  const facts = { bytes, context, canChat, sampling: text.sampling };
  const policy =
    `default-src 'none'; script-src 'self' '${hash(script)}'; style-src '${hash(style)}'; img-src data:; ` +
    "connect-src 'self'; base-uri 'none'; form-action 'none'";
  const parts: Readonly<Record<string, string>> = {
    policy,
    name: escaped(name),
    style,
    footer: footer(name, version, licences),
    facts: JSON.stringify(facts).replace(/</g, "\\u003c"),
    script,
  };
  return source("page/chat.html").replace(/\{\{(\w+)\}\}/g, (_, part) => parts[part] ?? "");
}

/** Which weights run here, and on whose terms. */
function footer(name: string, version: string, licences: readonly string[]): string {
  const links = licences.map((path) => `<a href="${escaped(encodeURI(path))}">${escaped(path)}</a>`);
  const terms =
    links.length > 0
      ? `under their own licence: ${links.join(", ")}`
      : "under their publisher's terms (no licence file came with them)";
  return `Weights of <b>${escaped(name)}</b>, converted by gemmac ${escaped(version)}, ${terms}. Answers may be wrong.`;
}

const hash = (text: string): string => `sha256-${createHash("sha256").update(text).digest("base64")}`;
const escaped = (text: string): string => text.replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);
