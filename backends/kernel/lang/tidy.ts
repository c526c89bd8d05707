import { type Expr, parts } from "./expr.ts";
import { reads, type Stmt } from "./kernel.ts";

/** `body` without what is named and never read. Names are read after they are given, so one walk from the end does. */
export function tidy(body: readonly Stmt[], used = new Set<string>()): Stmt[] {
  const use = (e: Expr): void => {
    if (e.node.kind === "name") used.add(e.node.name);
    for (const p of parts(e)) use(p);
  };
  const kept: Stmt[] = [];
  for (const s of body.toReversed()) {
    if (s.kind === "let" && !used.has(s.name)) continue;
    let now = s;
    if (s.kind === "for") now = { ...s, body: tidy(s.body, used) };
    if (s.kind === "if") {
      const no = tidy(s.no, used);
      now = { ...s, yes: tidy(s.yes, used), no };
    }
    for (const e of reads(s)) use(e);
    kept.push(now);
  }
  return kept.reverse();
}
