export * from "./builder.ts";
export * from "./expr.ts";
export * from "./kernel.ts";
export * from "./type.ts";
