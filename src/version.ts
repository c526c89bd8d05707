import { readFileSync } from "node:fs";

/** The package's version. package.json lies one folder up in the sources and two up in the build. */
export const version: string =
  ["../package.json", "../../package.json"]
    .map((path) => {
      try {
        const { name, version } = JSON.parse(readFileSync(new URL(path, import.meta.url), "utf8"));
        return name === "gemmac" ? String(version) : undefined;
      } catch {
        return undefined;
      }
    })
    .find((found) => found !== undefined) ?? "unknown";
