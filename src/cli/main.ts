#!/usr/bin/env node
import { exitCodes, isBrokenPipe, report } from "./errors.ts";
import { main } from "./program.ts";

const argv = process.argv.slice(2);

// Writing to stdout fails outside of any call of ours.
process.on("uncaughtException", (error) => {
  process.exit(
    isBrokenPipe(error)
      ? (process.exitCode ?? exitCodes.done)
      : report(error, undefined, argv.includes("--json")),
  );
});
await main(argv);
