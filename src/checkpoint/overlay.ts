import { stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { storedType, type TensorInfo, type Weights } from "../../backends/weights.ts";
import type { Graph } from "../../ir/graph.ts";
import { openWeights } from "./checkpoint.ts";
import { inputError, openFile, quote } from "./json.ts";
import { readExactly, readHeader } from "./safetensors.ts";

/** What adapters saved by PEFT put before the name of the tensor they belong to. */
const prefix = /^base_model\.model\.(?=model\.|lm_head\.)/;
const adapterFile = "adapter_model.safetensors";

/** More weights, and the files they are in. */
export interface Extra {
  readonly weights: Weights;
  readonly files: readonly { readonly path: string; readonly bytes: number }[];
}

/** Opens a .safetensors file, or a folder with an adapter or the weights of a model. Throws UserError. */
export async function openExtra(path: string): Promise<Extra> {
  const isFolder = await stat(path).then(
    (found) => found.isDirectory(),
    () => !path.endsWith(".safetensors"),
  );
  if (!isFolder) return openOne(path);
  const adapter = join(path, adapterFile);
  if (await stat(adapter).catch(() => undefined)) return openOne(adapter);
  return openWeights(path);
}

async function openOne(path: string): Promise<Extra> {
  const file = await openFile(path);
  if (!file) throw inputError(path, "there is no such file", "check the path");
  try {
    const { tensors } = await readHeader(file, path);
    const entries = new Map([...tensors].map(([name, entry]) => [name.replace(prefix, ""), entry]));
    const weights: Weights = {
      names: () => entries.keys(),
      info(name): TensorInfo | undefined {
        const entry = entries.get(name);
        return entry && { dtype: entry.dtype, shape: entry.shape, bytes: entry.end - entry.begin };
      },
      async read(name, offset, into) {
        const entry = entries.get(name);
        if (!entry) throw new RangeError(`there is no tensor ${name}`);
        await readExactly(file, path, entry.begin + offset, into);
      },
      close: () => file.close(),
    };
    return { weights, files: [{ path: basename(path), bytes: (await file.stat()).size }] };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** `base` with `more` beside it. Closing it closes both. Throws UserError when both hold a tensor of one name. */
export function overlay(base: Weights, more: Weights): Weights {
  const twice = [...more.names()].find((name) => base.info(name));
  if (twice !== undefined)
    throw inputError(
      `tensor ${quote(twice)}`,
      "is in the checkpoint and in the weights beside it",
      "rename it in one of them",
    );
  const holder = (name: string) => (more.info(name) ? more : base);
  return {
    names: () => [...base.names(), ...more.names()],
    info: (name) => holder(name).info(name),
    read: (name, offset, into) => holder(name).read(name, offset, into),
    async close() {
      await Promise.all([base.close(), more.close()]);
    },
  };
}

/** Checks that what passes ask for is there, as they ask for it. Throws UserError. */
export function checkStored(g: Graph, weights: Weights): void {
  for (const v of g.stored()) {
    const name = String(v.attrs.name);
    const found = weights.info(name);
    if (!found)
      throw inputError(
        `weight ${name} : ${v.type}`,
        "is asked for by a pass, but no file holds it",
        "pass the file with --weights-from, or correct the pass's options",
      );
    const has = storedType(found);
    if (!has.equals(v.type))
      throw inputError(`weight ${name}`, `is ${has}, but a pass asks for ${v.type}`, "correct its options");
  }
}
