import { stat } from "node:fs/promises";
import type { Command } from "commander";
import type { Session } from "../../../backends/backend.ts";
import { UserError } from "../../../ir/error.ts";
import { openModel } from "../../artifact/open.ts";
import { type Writable, writeSafetensors } from "../../checkpoint/safetensors.ts";
import { argmax } from "../../generate.ts";
import { type VerifyReport, verify } from "../../verify/verify.ts";
import { checkWritable, exitCodes, interruptible, naming } from "../errors.ts";
import { checkIds, decimal, defined, integer, repeated, tokenIds } from "../options.ts";
import { heading, note, number, print, printJson, StatusLine, table } from "../terminal.ts";

/** Adds `gemmac logits`. */
export function addLogits(program: Command): void {
  program
    .command("logits")
    .summary("write a model's scores to a file")
    .description(
      "Feed token ids to a model and write what it makes of them to a safetensors file: " +
        "logits f32[L,V], one row for each id; with --generate also decode_logits f32[N,V], " +
        "the row each further token was chosen from, and those tokens, generated_ids i32[N].",
    )
    .argument("<model>", "folder of an artifact or a checkpoint, or a .gguf file")
    .requiredOption("--ids <ids>", "token ids, with commas between", tokenIds)
    .option("-n, --generate <n>", "go on greedily for n tokens, past any stop token", integer(1))
    .requiredOption("-o, --out <file>", "the .safetensors file to write")
    .option("-f, --force", "replace the file that is there")
    .option("--json", "print a summary as JSON")
    .addHelpText(
      "after",
      `
Examples:
  gemmac logits gemma-2b-onnx --ids 2,651,8203 --out logits.safetensors
  gemmac logits gemma-2b --ids 2,651,8203 --generate 16 --out logits.safetensors`,
    )
    .action(logits);
}

type LogitsFlags = { ids: number[]; generate?: number; out: string; force?: boolean; json?: boolean };

async function logits(
  path: string,
  { ids, generate: steps = 0, out, force, json }: LogitsFlags,
): Promise<void> {
  await checkOut(out, force ?? false);
  await interruptible(async (signal) => {
    const model = await openModel(path);
    try {
      const { facts, session } = model;
      checkIds(ids, facts);
      if (ids.length + steps > facts.context)
        throw new UserError(
          "input",
          `${ids.length} ids and ${steps} more do not fit in the model's context of ${facts.context}`,
          "ask for fewer",
        );
      const { rows, decoded, generated } = await feed(session, ids, steps, signal);
      const vocab = facts.vocab;
      const tensors: Record<string, Writable> = {
        logits: { dtype: "f32", shape: [ids.length, vocab], data: rows },
      };
      if (steps > 0) {
        tensors.decode_logits = { dtype: "f32", shape: [steps, vocab], data: decoded };
        tensors.generated_ids = { dtype: "i32", shape: [steps], data: generated };
      }
      await naming(out, writeSafetensors(out, tensors));
      const shapes = Object.entries(tensors).map(([name, { dtype, shape }]) => ({ name, dtype, shape }));
      if (json) printJson({ out, model: model.kind, ids, generatedIds: [...generated], tensors: shapes });
      else {
        print(heading(out));
        print(table(shapes.map(({ name, dtype, shape }) => [name, `${dtype}[${shape}]`])));
        if (steps > 0) print(`generated ${generated.join()}`);
      }
    } finally {
      await model.close();
    }
  });
}

async function checkOut(out: string, force: boolean): Promise<void> {
  await checkWritable(out, false);
  const found = await stat(out).catch(() => undefined);
  if (found?.isDirectory()) throw new UserError("usage", `${out} is a folder`, "name a file for --out");
  if (found && !force)
    throw new UserError(
      "usage",
      `${out} exists already`,
      "choose another --out, or pass --force to replace it",
    );
}

async function feed(session: Session, ids: readonly number[], steps: number, signal: AbortSignal) {
  const { vocab } = session.facts;
  const decoded = new Float32Array(steps * vocab);
  const generated = new Int32Array(steps);
  const rows: Float32Array = (await session.append(ids)).logits.slice();
  let last: Float32Array = rows.subarray(-vocab);
  for (let i = 0; i < steps; i++) {
    signal.throwIfAborted();
    const id = argmax(last);
    decoded.set(last, i * vocab);
    generated[i] = id;
    if (i + 1 < steps) last = (await session.append([id])).logits;
  }
  return { rows, decoded, generated };
}

/** Adds `gemmac verify`. */
export function addVerify(program: Command): void {
  program
    .command("verify")
    .summary("compare an artifact with its checkpoint")
    .description(
      "Run an artifact in its runtime and its checkpoint on the reference interpreter, and compare " +
        `their scores. Exits with ${exitCodes.verify} when they differ by more than the tolerance.`,
    )
    .argument("<artifact>", "folder of an artifact")
    .requiredOption(
      "-a, --against <checkpoint>",
      "the checkpoint it was compiled from, a folder or a .gguf file",
    )
    .option("-p, --prompt <text>", "text to compare on; may be repeated", repeated(String))
    .option(
      "--ids <ids>",
      "token ids to compare on, with commas between; may be repeated",
      repeated(tokenIds),
    )
    .option(
      "--tolerance <x>",
      "largest difference that passes, as a share of the largest score (default: 0.0002)",
      decimal(0),
    )
    .option("--json", "print the report as JSON")
    .addHelpText(
      "after",
      `
Examples:
  gemmac verify gemma-2b-onnx --against gemma-2b
  gemmac verify gemma-2b-onnx --against gemma-2b --prompt "Once upon a time" --json`,
    )
    .action(verifyAction);
}

type VerifyFlags = {
  against: string;
  prompt?: string[];
  ids?: number[][];
  tolerance?: number;
  json?: boolean;
};

async function verifyAction(
  artifact: string,
  { against, prompt, ids, tolerance, json }: VerifyFlags,
): Promise<void> {
  const status = new StatusLine();
  const progress = (done: number, total: number) => status.show(() => `verifying ${done} of ${total}`);
  let report: VerifyReport;
  try {
    report = await verify(artifact, against, defined({ prompts: prompt, ids, tolerance, progress }));
  } finally {
    status.clear();
  }
  if (json) printJson(report);
  else printReport(report);
  if (report.ok) return;
  process.exitCode = exitCodes.verify;
  const first = report.firstDivergence?.origin;
  note(
    `${artifact} does not compute what ${against} does; ` +
      (first ? `the first to diverge is ${first}` : "compile it again"),
  );
}

function printReport(r: VerifyReport): void {
  const percent = (x: number) => `${(100 * x).toFixed(2)} %`;
  const real = (x: number) => x.toPrecision(3);
  print(heading(r.ok ? "verified" : "NOT verified"));
  print(
    table([
      ["tokens compared", number(r.tokens)],
      ["largest difference", real(r.maxDifference)],
      ["mean difference", real(r.meanDifference)],
      ["tolerance", `${r.tolerance} of the largest score`],
      ["KL divergence", `${real(r.kl)} nats`],
      ["same top token", percent(r.top1)],
      ["same top 5 tokens", percent(r.top5)],
      ...(r.rounded
        ? [
            [
              "as it runs, rounding to 8 bits",
              `${percent(r.rounded.top1)} the same, KL ${real(r.rounded.kl)} nats`,
            ],
          ]
        : []),
    ]),
  );
  const first = r.firstDivergence;
  if (first)
    print(
      table([
        [
          "first to diverge",
          `${first.origin}, by ${real(first.maxDifference)} (tolerance ${real(first.tolerance)})`,
        ],
      ]),
    );
}
