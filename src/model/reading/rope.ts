import { isObject, type JsonObject, quote } from "../../checkpoint/json.ts";
import type { Rope } from "../config.ts";
import type { Keys } from "./keys.ts";

/** An object of the file that may speak of one rope, and how it is called there. */
interface Source {
  readonly key: string;
  readonly json: JsonObject;
}

/** transformers 4 states rope_theta at the top and scaling in rope_scaling, 5 both in rope_parameters. */
export function readRope(keys: Keys): Rope {
  return ropeOf(keys, "rope_theta", 10_000, objects(keys, ["rope_parameters", "rope_scaling"]));
}

/**
 * The ropes of full and of sliding layers. transformers 4 states rope_theta and rope_scaling for the full ones and
 * rope_local_base_freq for the others, 5 has an object for each in rope_parameters.
 */
export function readRopes(keys: Keys): { rope: Rope; localRope: Rope } {
  const own = (type: string): Source[] =>
    objects(keys, ["rope_parameters"]).flatMap(({ key, json }) => {
      const strange = Object.keys(json).find((k) => k !== "full_attention" && k !== "sliding_attention");
      if (strange !== undefined)
        throw keys.bad(
          `${key}.${strange} is ${quote(json[strange])}, but Gemma 3 has a rope for each type of layer`,
          `state ${key}.full_attention and ${key}.sliding_attention`,
        );
      const inner = json[type];
      if (inner === undefined || inner === null) return [];
      if (!isObject(inner)) throw keys.bad(`${key}.${type} is ${quote(inner)}, not an object`);
      return [{ key: `${key}.${type}`, json: inner }];
    });
  const full = [...own("full_attention"), ...objects(keys, ["rope_scaling"])];
  return {
    rope: ropeOf(keys, "rope_theta", 1_000_000, full),
    localRope: ropeOf(keys, "rope_local_base_freq", 10_000, own("sliding_attention")),
  };
}

function objects(keys: Keys, names: readonly string[]): Source[] {
  return names.flatMap((key) => {
    const json = keys.stated(key);
    if (json === undefined || json === null) return [];
    if (!isObject(json)) throw keys.bad(`${key} is ${quote(json)}, not an object`);
    return [{ key, json }];
  });
}

function ropeOf(keys: Keys, top: string, fallback: number, sources: readonly Source[]): Rope {
  const said = (part: string) =>
    sources.flatMap(({ key, json }) =>
      json[part] === undefined || json[part] === null ? [] : [[`${key}.${part}`, json[part]] as const],
    );
  const agreed = (all: readonly (readonly [string, unknown])[]) => {
    const [[key, value] = ["", undefined], ...others] = all;
    for (const [other, again] of others)
      if (again !== value) throw keys.bad(`${key} is ${quote(value)}, but ${other} is ${quote(again)}`);
    return [key, value] as const;
  };
  for (const { key, json } of sources)
    for (const [part, value] of Object.entries(json))
      if (value !== null && !["rope_theta", "rope_type", "type", "factor"].includes(part))
        throw keys.bad(
          `${key}.${part} is ${quote(value)}, but gemmac knows no RoPE scaling other than linear`,
          "use a checkpoint without it",
        );

  const stated = keys.stated(top);
  const [at, base] = agreed([
    ...(stated === undefined ? [] : [[top, stated] as const]),
    ...said("rope_theta"),
  ]);
  const theta = keys.take(at || top, base, fallback);
  if (!(theta >= 1 && theta <= 1e12)) throw keys.bad(`${at || top} is ${theta}, not a number from 1 to 1e12`);

  const [kindAt, kind = "default"] = agreed([...said("rope_type"), ...said("type")]);
  if (kind !== "default" && kind !== "linear")
    throw keys.bad(
      `${kindAt} is ${quote(kind)}, but gemmac knows no RoPE scaling other than linear`,
      "use a checkpoint without RoPE scaling, or with linear",
    );
  const [factorAt, factor] = agreed(said("factor"));
  if (kind === "default" && factor !== undefined)
    throw keys.bad(
      `${factorAt} is ${quote(factor)}, but no rope_type says how to scale`,
      "state rope_type: linear",
    );
  if (kind === "default") return { theta, factor: 1 };
  if (factor === undefined) throw keys.bad(`${kindAt} is linear, but there is no factor`, "state the factor");
  if (!(typeof factor === "number" && factor >= 1 && factor <= 1e6))
    throw keys.bad(`${factorAt} is ${quote(factor)}, not a number from 1 to 1e6`);
  keys.record(factorAt, factor, "stated", "linear");
  return { theta, factor };
}
