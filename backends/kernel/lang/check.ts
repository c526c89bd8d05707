import { type Expr, parts } from "./expr.ts";
import { declares, type Kernel, meets, reads, type Stmt, statements } from "./kernel.ts";
import { lanes } from "./type.ts";

/**
 * What types cannot say: threads meet only where all of them come by, inputs are read only after `await`, what is
 * read has been declared, and what is written may be. Throws TypeError naming the kernel.
 */
export function checkKernel(k: Kernel): void {
  const fail = (why: string): never => {
    throw new TypeError(`kernel ${k.name}: ${why}`);
  };
  let ready = ![...statements(k.body)].some((s) => s.kind === "await");

  const look = (e: Expr, known: ReadonlySet<string>): void => {
    const { node } = e;
    if (node.kind === "name" && node.of === "local" && !known.has(node.name))
      fail(`${node.name} is read where it is not declared`);
    if (node.kind === "load" && !ready && (node.memory.space === "input" || node.memory.space === "output"))
      fail(`${node.memory.name} is read before await(); only weights may be`);
    for (const p of parts(e)) look(p, known);
  };
  const walk = (body: readonly Stmt[], outer: ReadonlySet<string>, top: boolean): void => {
    const known = new Set(outer);
    for (const s of body) {
      for (const e of reads(s)) look(e, known);
      if (s.kind === "await") {
        if (!top) fail("await() stands inside a loop or a branch");
        ready = true;
      }
      if (s.kind === "store" && (s.memory.space === "weight" || s.memory.space === "input"))
        fail(`${s.memory.name} is written, but it is a ${s.memory.space}`);
      if (s.kind === "copy") {
        if (s.memory.space !== "shared") fail(`${s.memory.name} is copied to, but it is not shared`);
        if (lanes(s.from.type).count !== 4) fail(`${s.from.name} is copied, but not 16 bytes at a time`);
        if (!ready && s.from.space !== "weight")
          fail(`${s.from.name} is read before await(); only weights may be`);
      }
      if ((s.kind === "mma" || s.kind === "matrices") && k.threads % 32)
        fail("multiplies by warps of 32 threads, and has no whole ones");
      if (s.kind === "mma" && !known.has(s.acc)) fail(`${s.acc} is added to where it is not declared`);
      if (s.kind === "set" && !known.has(s.name)) fail(`${s.name} is set where it is not declared`);
      if (s.kind === "reduce" && (k.threads % s.lanes || !Number.isInteger(Math.log2(s.lanes))))
        fail(
          `reduces over ${s.lanes} of ${k.threads} threads; lanes must be a power of two that divides them`,
        );
      if (s.kind === "for") {
        if (meets(s) && !(s.from.uniform && s.to.uniform && s.step.uniform))
          fail(`threads meet in the loop over ${s.name}, but run it for different counts`);
        walk(s.body, new Set([...known, s.name]), false);
      }
      if (s.kind === "if") {
        if (meets(s) && !s.cond.uniform) fail("threads meet in a branch that not all of them take");
        walk(s.yes, known, false);
        walk(s.no, known, false);
      }
      if (s.kind !== "for") for (const d of declares(s)) known.add(d.name);
    }
  };
  walk(k.body, new Set(), true);
}
