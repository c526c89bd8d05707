import type { ViewData } from "./data.ts";
export const pageOf = (d: ViewData): string => JSON.stringify(d);
