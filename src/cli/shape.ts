import { type Command, InvalidArgumentError, Option } from "commander";
import { parseMesh } from "../../passes/specialize/shard.ts";
import type { TargetOptions } from "../target.ts";
import { defined, integer } from "./options.ts";

/** Flags about what some targets fix when a model is compiled. */
export interface ShapeFlags {
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
export const addShapeOptions = (command: Command): Command =>
  command
    .option("--batch <n>", "stablehlo: texts that are run at once (default: 1)", fixed)
    .option(
      "--capacity <tokens>",
      "slots of the caches; those of onnx grow without it (default: 4096)",
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
        "stablehlo: bf16 lets a TPU round what it multiplies, and halves the caches (default: f32)",
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

/** The target options that these flags set. */
export const shapeOptions = (flags: ShapeFlags): TargetOptions => {
  const { batch, capacity, prefill, arithmetic, padRows: rows, scanLayers, mesh, limits } = flags;
  return defined({ batch, capacity, prefill, arithmetic, rows, scanLayers, mesh, limits });
};

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
