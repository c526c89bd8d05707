import { type Command, InvalidArgumentError, Option } from "commander";
import { parseMesh } from "../../passes/specialize/shard.ts";
import { chooseBackends } from "../compile.ts";
import { loadPasses, loadPipeline } from "../plugin/load.ts";
import type { TargetOptions } from "../target.ts";
import { defined, integer, repeated } from "./options.ts";

/** Flags of commands that say what would be, or is, compiled. */
export interface BuildFlags {
  profile: NonNullable<TargetOptions["profile"]>;
  weights: NonNullable<TargetOptions["weights"]>;
  quant?: "int8" | "int4";
  passes?: string;
  pass?: string[];
  batch?: number;
  capacity?: number;
  prefill?: number;
  arithmetic?: "f32" | "bf16";
  padRows?: number;
  scanLayers?: boolean;
  mesh?: string;
  limits?: string;
}

/** Adds these flags to a command. */
export const addBuildOptions = (command: Command): Command =>
  command
    .addOption(
      new Option("--profile <name>", "the runtime's fastest operators, or those of the standard only")
        .choices(["ort", "standard"])
        .default("ort"),
    )
    .addOption(
      new Option("--quant <scheme>", "whole numbers for weights, in the blocks that suit the target").choices(
        ["int8", "int4"],
      ),
    )
    .addOption(
      new Option("--weights <dtype>", "keep weights as stored, or widen them for runtimes without bf16")
        .choices(["stored", "f32"])
        .default("stored"),
    )
    .option(
      "--passes <pipeline>",
      "passes to run in the place of the target's own; what it cannot do without runs last if left out; see gemmac passes",
    )
    .option(
      "--pass <file>",
      "a pass of yours, run after the target's fusions: a file or a package; may be repeated",
      repeated(String),
    )
    .option("--batch <n>", "stablehlo: texts that are run at once (default: 1)", fixed)
    .option(
      "--capacity <tokens>",
      "slots of the caches; those of onnx grow without it (default: 4096, or the context of the model where that is less)",
      integer(1, 2 ** 24),
    )
    .option(
      "--prefill <tokens>",
      "stablehlo: tokens in a step of prefill (default: 256)",
      integer(2, 2 ** 16),
    )
    .addOption(
      new Option(
        "--arithmetic <dtype>",
        "stablehlo, cuda: bf16 lets products of many tokens round what they multiply, and halves the caches (default: f32)",
      ).choices(["f32", "bf16"]),
    )
    .option(
      "--pad-rows <n>",
      "stablehlo: pad products of fewer rows, as 8 on a TPU (default: 1)",
      integer(1, 64),
    )
    .option(
      "--scan-layers",
      "stablehlo: layers as turns of a loop, so that XLA compiles one of them, however many there are",
    )
    .option("--mesh <axes>", "stablehlo: devices to run on, as in data=2,model=4", meshText)
    .option(
      "--limits <names>",
      "wgsl: what devices must offer, as in maxBufferSize=2147483648 (default: what every WebGPU does)",
    );

/** What these flags ask for, users' passes loaded. Throws UserError. */
export async function buildOptions(targets: readonly string[], flags: BuildFlags) {
  const { profile, weights, quant, padRows: rows, passes, pass = [] } = flags;
  const { batch, capacity, prefill, arithmetic, scanLayers, mesh, limits } = flags;
  const shape = defined({ batch, capacity, prefill, arithmetic, rows, scanLayers, mesh, limits });
  const own = chooseBackends(targets, { profile, weights, ...shape }).flatMap((backend) => backend.passes);
  const pipeline = passes === undefined ? undefined : await loadPipeline(passes, own);
  const insert = (await Promise.all(pass.map(loadPasses))).flat();
  return { profile, weights, insert, ...shape, ...defined({ pipeline, quant }) };
}

/** Reads a batch size, which is fixed when the model is compiled. */
function fixed(text: string): number {
  if (!/^\d+$/.test(text))
    throw new InvalidArgumentError("The batch is fixed when a model is compiled: give a number such as 8");
  return integer(1, 2 ** 16)(text);
}

/** Reads `data=2,model=4`. */
function meshText(text: string): string {
  try {
    parseMesh(text.replaceAll("=", ":").replaceAll(",", "/"));
  } catch (e) {
    throw new InvalidArgumentError(e instanceof Error ? e.message : String(e));
  }
  return text;
}
