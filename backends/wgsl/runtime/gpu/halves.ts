/** Whether products come in halves on this adapter: where it has them and, unless that is given, no processor plays it. */
export const takesHalves = ({ features, info }: GPUAdapter, halves = !info.isFallbackAdapter): boolean =>
  halves && features.has("shader-f16");
