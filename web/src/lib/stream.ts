/** Server-sent events over POST: a continuation, piece by piece. */

import { away, Failed, send } from "./api.svelte";

/** Whole events out of any pieces in which the network brings them: each one's data. */
export class EventReader {
  private rest = "";

  push(text: string): string[] {
    // A carriage return at the end may be half of a line end.
    const all = this.rest + text;
    const held = all.endsWith("\r") ? "\r" : "";
    const lines = all.slice(0, all.length - held.length).replaceAll("\r\n", "\n").replaceAll("\r", "\n");
    const events = lines.split("\n\n");
    this.rest = events.pop()! + held;
    return events
      .map((event) =>
        event
          .split("\n")
          .filter((line) => line.startsWith("data:"))
          .map((line) => line.slice(5).replace(/^ /, ""))
          .join("\n"),
      )
      .filter((data) => data !== "");
  }
}

export interface Wish {
  model: string;
  prompt: string;
  max_tokens: number;
  temperature: number;
  top_k?: number;
  top_p?: number;
  seed?: number;
}

interface Chunk {
  choices?: { text?: string; logprobs?: { tokens: string[]; token_logprobs: number[] } | null; finish_reason?: string | null }[];
  error?: { message?: string };
}

/** Calls `each` with new text, its tokens and their log-probabilities; returns why the stream ended. */
export async function complete(
  wish: Wish,
  each: (text: string, tokens: string[], logprobs: number[]) => void,
  signal: AbortSignal,
): Promise<string> {
  const response = await send({ path: "v1/completions", body: { ...wish, stream: true, logprobs: 0 } }, signal);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  const events = new EventReader();
  let reason = "";
  const broken = (error?: unknown) =>
    signal.aborted ? error : away(new Failed("The server went away while it wrote. What had come stays.", 0));
  for (;;) {
    const { done, value } = await reader.read().catch((error) => Promise.reject(broken(error)));
    for (const data of events.push(done ? "\n\n" : value)) {
      if (data === "[DONE]") return reason;
      const chunk = JSON.parse(data) as Chunk;
      if (chunk.error) throw new Failed(chunk.error.message ?? "The stream broke off.", 0);
      for (const choice of chunk.choices ?? []) {
        each(choice.text ?? "", choice.logprobs?.tokens ?? [], choice.logprobs?.token_logprobs ?? []);
        reason = choice.finish_reason ?? reason;
      }
    }
    if (done) throw broken();
  }
}
