import { readFile } from "node:fs/promises";

/**
 * A file of the C that all models share. Lines between `@cpu`, `@gpu` and `@end`, each on a line of its own, are those of
 * programs for the one or the other; in the place of a line `@part name` comes that file.
 */
export async function runtimePart(name: string, device: "cpu" | "gpu" = "cpu"): Promise<string> {
  const text = await readFile(new URL(`./runtime/${name}`, import.meta.url), "utf8");
  let kept = true;
  const lines = text.split("\n").map(async (line) => {
    const [, mark, part] = /^@(cpu|gpu|end|part (\S+))$/.exec(line) ?? [];
    if (part) return kept ? [(await runtimePart(part, device)).trimEnd()] : [];
    if (mark) kept = mark === "end" || mark === device;
    return kept && !mark ? [line] : [];
  });
  return (await Promise.all(lines)).flat().join("\n");
}
