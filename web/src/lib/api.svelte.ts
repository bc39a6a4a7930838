/** Questions to the server, remembered; in a saved page, answered from what was saved. */

import { untrack } from "svelte";

export interface Question {
  path: string;
  body?: Record<string, unknown>;
}

interface Saved {
  hash: string;
  answers: Record<string, unknown>;
}

const element = document.getElementById("saved");
/** Present in a page that was saved as one file. */
export const saved: Saved | null = element ? JSON.parse(element.textContent!) : null;

/** What the server says of itself comes with the page, but for one that wants a key. */
const about = document.getElementById("about")?.textContent;
const remembered = new Map<string, unknown>(Object.entries(saved?.answers ?? (about ? { "api/model": JSON.parse(about) } : {})));
const MOST = 240;

export const keyOf = (q: Question) => (q.body ? `${q.path} ${JSON.stringify(q.body)}` : q.path);

export const answers = () => remembered;

export class Failed extends Error {
  constructor(
    message: string,
    public status: number,
  ) {
    super(message);
  }
  /** It may be there again in a moment: no server, one that ends, one behind a proxy. */
  get passing() {
    return this.status === 0 || this.status >= 502;
  }
}

function headers(): Record<string, string> {
  const key = sessionStorage.getItem("key");
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

export async function send(q: Question, signal?: AbortSignal): Promise<Response> {
  if (saved) throw new Failed("This is a saved page: it shows what was looked at when it was saved, and asks no server.", 404);
  let response: Response;
  try {
    response = await fetch(q.path, {
      method: q.body ? "POST" : "GET",
      headers: headers(),
      body: q.body && JSON.stringify(q.body),
      signal,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw away(new Failed("The server does not answer. Is gpt2 serve still running?", 0));
  }
  recognise(response.headers.get("X-Process"));
  if (!response.ok) {
    const content = await response.json().catch(() => null);
    const failed = new Failed(content?.error?.message ?? `The server answers with status ${response.status}.`, response.status);
    throw failed.passing ? away(failed) : failed;
  }
  return response;
}

/** How often a server that is away is looked for, in milliseconds. */
const AGAIN = 1000;

let absent = $state("");
/** Goes up when all that is not known has to be asked anew. */
let round = $state(0);
let process: string | null = null;

/** What to tell of a server that is away; nothing while it answers. */
export const missing = () => absent;

/** The server is away: it is looked for until it is back, and what was asked meanwhile is asked then. */
export function away(why: Failed): Failed {
  if (!absent) setTimeout(find, AGAIN);
  absent = why.message;
  return why;
}
async function find() {
  try {
    await send({ path: "api/model" });
  } catch (error) {
    if (error instanceof Failed && error.passing) {
      setTimeout(find, document.hidden ? 5 * AGAIN : AGAIN);
      return;
    }
  }
  absent = "";
  round++;
}

/** Another process may serve another model: what the one before said is forgotten. */
function recognise(now: string | null) {
  if (!now || now === process) return;
  if (process) {
    remembered.clear();
    round++;
  }
  process = now;
}

export async function get<T>(q: Question, signal?: AbortSignal): Promise<T> {
  const key = keyOf(q);
  if (remembered.has(key)) return remembered.get(key) as T;
  const answer = (await (await send(q, signal)).json()) as T;
  remembered.set(key, answer);
  if (remembered.size > MOST) remembered.delete(remembered.keys().next().value!);
  return answer;
}

const open = new Set<AbortController>();
let some = $state(false);
/** Whether an answer that is to be shown is on its way. */
export const waiting = () => some;

function begin(control: AbortController) {
  open.add(control);
  some = true;
}
function end(control: AbortController) {
  open.delete(control);
  some = open.size > 0;
}

/** A question that follows the last one sooner than this is part of a series, in milliseconds. */
const SERIES = 250;

/**
 * An answer that follows its question. While a new one is on its way the last stays, so that nothing jumps; and while the
 * server is away. A server with too much to do is asked again.
 * What is known is there from the start. Of a series of questions the first is asked at once, of the others those
 * that stand for `wait` milliseconds. Call it while a component is set up.
 */
export function answerTo<T>(question: () => Question | null, wait = 40) {
  const key = $derived.by(() => {
    const q = question();
    return q && keyOf(q);
  });
  let value = $state.raw<T | null>(untrack(() => remembered.get(key ?? "") as T | undefined) ?? null);
  let error = $state("");
  let busy = $state(false);
  let changed = -Infinity;
  $effect(() => {
    void round;
    const known = remembered.get(key ?? "") as T | undefined;
    const q = key ? untrack(question) : null;
    if (!q || known !== undefined) {
      value = known ?? null;
      error = "";
      busy = false;
      return;
    }
    const control = new AbortController();
    busy = true;
    begin(control);
    async function ask(q: Question) {
      try {
        value = await get<T>(q, control.signal);
        error = "";
      } catch (problem) {
        if (control.signal.aborted) return;
        if (problem instanceof Failed && problem.passing) return;
        if (problem instanceof Failed && problem.status === 429) {
          timer = window.setTimeout(ask, AGAIN, q);
          return;
        }
        error = problem instanceof Error ? problem.message : String(problem);
        value = null;
      }
      if (control.signal.aborted) return;
      busy = false;
      end(control);
    }
    const now = performance.now();
    let timer = 0;
    if (now - changed < SERIES) timer = window.setTimeout(ask, wait, q);
    else void ask(q);
    changed = now;
    return () => {
      clearTimeout(timer);
      control.abort();
      end(control);
    };
  });
  return {
    get value() {
      return value;
    },
    get error() {
      return error;
    },
    get busy() {
      return busy;
    },
  };
}
