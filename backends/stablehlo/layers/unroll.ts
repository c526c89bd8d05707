import { nameOfOne } from "./names.ts";

/** A function as the text has it: arguments with their types, lines without indentation, names of results. */
export interface Function {
  readonly args: readonly { readonly name: string; readonly type: string }[];
  readonly lines: readonly string[];
  readonly results: readonly string[];
}

const values = /%[\w.$-]+(?:#\d+)?/g;

/**
 * A function with the turns of its loop written out, so that each layer's values have names of their own. What held all
 * layers' weights or caches becomes an argument for each layer, which holds one. A function without a loop stays as it is.
 */
export function unrolled(f: Function): Function {
  const start = f.lines.findIndex((line) => line.includes(" = stablehlo.while("));
  if (start < 0) return f;
  const middle = f.lines.indexOf("} do {", start);
  const end = f.lines.indexOf("}", middle);
  const [head = "", condition = ""] = [f.lines[start], f.lines[start + 2]];
  const [, result = ""] = /^(%[\w.$-]+):\d+ = /.exec(head) ?? [];
  const taken = [...head.matchAll(/(%[\w.$-]+) = (%[\w.$-]+)(?=[,)])/g)].map((m) => [m[1], m[2]] as const);
  const limit = /compare LT, \S+, (%[\w.$-]+),/.exec(condition)?.[1] ?? "";
  const times = Number(/dense<(\d+)>/.exec(f.lines.find((l) => l.startsWith(`${limit} = `)) ?? "")?.[1]);
  const body = f.lines.slice(middle + 1, end - 1).map((line) => line.trim());
  const returned = (f.lines[end - 1] ?? "").split(" : ")[0]?.match(values) ?? [];
  const [counter = "", ...carried] = taken.map(([inside]) => inside as string);
  if (end < 0 || !result || !Number.isSafeInteger(times) || returned.length !== taken.length)
    throw new SyntaxError(`${head} is no loop that gemmac wrote`);

  const types = new Map(f.args.map((a) => [a.name, a.type]));
  // Of these the body reads one layer's part at a time.
  const sliced = body.flatMap((line) => {
    const [, whole, by] = / = stablehlo\.dynamic_slice (%\S+), (%\S+),/.exec(line) ?? [];
    return whole && by === counter && types.has(whole) ? [whole] : [];
  });
  const stacks = new Set([
    ...sliced,
    ...taken.flatMap(([, from]) => (from && types.has(from) ? [from] : [])),
  ]);
  const one = (type: string) => type.replace(/^tensor<\d+x/, "tensor<1x");
  /** Types of all layers' tensors, by any name that they go by in the body. */
  const whole = new Map([...stacks].map((name) => [name, types.get(name) as string]));
  for (const [i, [inside, from]] of taken.entries()) {
    const type = from && stacks.has(from) ? types.get(from) : undefined;
    if (!type) continue;
    whole.set(inside as string, type);
    whole.set(returned[i] as string, type);
  }

  const made = new Set(body.map((line) => line.split(" = ")[0] as string));
  let before = new Map(taken.map(([inside, from]) => [inside as string, from as string]));
  const lines = f.lines.slice(0, start);
  const left: string[][] = [];
  for (let n = 0; n < times; n++) {
    const now = before;
    const spell = (name: string): string => {
      const start = now.get(name);
      if (name === counter) return nameOfOne(counter, n);
      if (stacks.has(start ?? name)) return nameOfOne(start ?? name, n);
      return start ?? (made.has(name) ? nameOfOne(name, n) : name);
    };
    // Each layer's tensors hold one layer.
    lines.push(`${spell(counter)} = stablehlo.constant dense<0> : tensor<i32>`);
    for (const line of body) {
      const shorter = (line.match(values) ?? []).reduce((text, name) => {
        const type = whole.get(name);
        return type ? text.replaceAll(type, one(type)) : text;
      }, line);
      lines.push(shorter.replace(values, spell));
    }
    left.push(returned.map(spell));
    before = new Map(
      taken.map(([inside, from], i) => {
        const keeps = from !== undefined && stacks.has(from);
        return [inside as string, keeps ? from : spell(returned[i] as string)];
      }),
    );
  }
  const last = (name: string): string => {
    const i = name.startsWith(`${result}#`) ? Number(name.slice(result.length + 1)) : -1;
    return i < 0 ? name : (left.at(-1)?.[i] as string);
  };
  return {
    args: f.args.flatMap((a) => {
      if (!stacks.has(a.name)) return [a];
      return left.map((_, n) => ({ name: nameOfOne(a.name, n), type: one(a.type) }));
    }),
    lines: [...lines, ...f.lines.slice(end + 1).map((line) => line.replace(values, last))],
    results: f.results.flatMap((name) => {
      const i = name.startsWith(`${result}#`) ? Number(name.slice(result.length + 1)) : -1;
      const isStack = i > 0 && carried[i - 1] !== undefined && whole.has(carried[i - 1] as string);
      return isStack ? left.map((names) => names[i] as string) : [last(name)];
    }),
  };
}
