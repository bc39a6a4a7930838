/** What the server's JSON holds; the fields are those of the result objects of gpt2.inspection. */

export interface Check {
  ok: boolean;
  text: string;
  residual: number | null;
}

export interface View {
  kind: string;
  title: string;
  summary: string;
  check: Check | null;
}

export interface About {
  mode: "model" | "watch";
  name: string;
  source: string;
  parameters: number;
  config: { vocab_size: number; context_length: number; d_model: number; num_layers: number; num_heads: number };
  vocabulary: number;
  device: string;
  run: boolean;
  snapshots: { step: number; tokens: number | null }[];
  examples: string[];
}

export interface Tokens {
  ids: number[];
  tokens: string[];
  pieces: string[];
  limit: number;
}

export interface Odds extends View {
  position: number;
  tokens: string[];
  ids: number[];
  probabilities: number[][];
  entropy: number[];
}

export interface Logits {
  logits: string;
  odds: Odds;
}

export interface Surprise extends View {
  tokens: string[];
  nats: number[];
  rank: number[];
  entropy: number[];
  top_tokens: string[][];
  top_probabilities: number[][];
  loss: number;
}

export interface Atlas extends View {
  tokens: string[];
  layers: number;
  heads: number;
  size: number;
  tiles: string;
  first: number[][];
}

export interface Attention extends View {
  layer: number;
  head: number;
  tokens: string[];
  pattern: number[][];
}

export interface HeadSteps extends View {
  layer: number;
  head: number;
  query: number;
  tokens: string[];
  q: number[];
  k: number[][];
  products: number[][];
  raw: number[];
  scores: number[];
  pattern: number[];
  v: number[][];
  z: number[];
}

export interface HeadKinds extends View {
  kinds: string[];
  scores: number[][][];
  threshold: number[];
  first_token: number[][];
  entropy: number[][];
  names: string[][];
}

export interface Lens extends View {
  tokens: string[];
  readings: string[];
  top_ids: number[][][];
  top_tokens: string[][][];
  top_probabilities: number[][][];
  kl: number[][];
  next_rank: number[][];
  next_log_probability: number[][];
}

export interface Attribution extends View {
  unit: string;
  position: number;
  token: string;
  target: string;
  target_id: number;
  against: string | null;
  parts: string[];
  values: number[];
  total: number;
  logit: number;
}

export interface Effect extends View {
  parts: string[];
  tokens: string[];
  ids: number[];
  before: number[];
  after: number[];
  kl: number;
  continuation_before: string;
  continuation_after: string;
  loss_before: number;
  loss_after: number;
  low: number;
  high: number;
  num_documents: number;
  num_tokens: number;
}

export interface Neighbours extends View {
  token: string;
  token_id: number;
  tokens: string[];
  ids: number[];
  cosines: number[];
}

export interface WordMap extends View {
  tokens: string[];
  ids: number[];
  places: number[][];
  shares: number[];
}

export interface Point {
  step: number;
  tokens: number;
  seconds: number;
  loss: number;
  bits_per_byte?: number;
  tokens_per_second?: number;
}

export interface History {
  train: Point[];
  valid: Point[];
  samples: { step: number; bits_per_byte: number | null; text: string }[];
  running: boolean;
  finished: boolean;
  last: Record<string, number> | null;
  plan: string[];
  bits_per_byte: number | null;
}
