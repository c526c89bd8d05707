import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    // C is built often and run briefly.
    env: { GEMMAC_CFLAGS: "-O1" },
    include: ["test/**/*.test.ts"],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    // The built command line is run as it is.
    server: { deps: { external: [/\/dist\//] } },
    // By itself vitest leaves one core idle: of two, that is half.
    maxWorkers: "100%",
  },
});
