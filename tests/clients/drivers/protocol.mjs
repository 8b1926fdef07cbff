// What every Node driver shares, as protocol.py for Python: a job per line in, a list of results per line out.
import { existsSync } from "node:fs";
import { createInterface } from "node:readline";

const SIGN_MS = 30_000;

// In lockstep, every agent of a job waits until all of them have come as far.
function meeting(count) {
  let waiting = [];
  return async () => {
    if (count < 2) return;
    await new Promise((resolve) => {
      waiting.push(resolve);
      const late = setTimeout(resolve, 10_000);
      late.unref();
      if (waiting.length === count) {
        const ready = waiting;
        waiting = [];
        ready.forEach((go) => go());
      }
    });
  };
}

// What an agent written by hand throws for a failure that its SDK only tells of.
export class AnswerFailed extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

// Options of an OpenAI or Anthropic client, where the job says other than the defaults.
export function options(job) {
  return {
    baseURL: job.base_url,
    apiKey: job.api_key,
    ...(job.max_retries === undefined || job.max_retries === null ? {} : { maxRetries: job.max_retries }),
    ...(job.headers ? { defaultHeaders: job.headers } : {}),
  };
}

// The error's code where an agent finds it: OpenAI's `code`, Anthropic's `errorCode`, or in the body.
function codeOf(failure) {
  const found = failure?.code ?? failure?.errorCode;
  if (typeof found === "string") return found;
  let body = failure?.data ?? failure;
  if (typeof failure?.responseBody === "string") {
    try {
      body = JSON.parse(failure.responseBody);
    } catch {
      return null;
    }
  }
  return body?.error?.details?.error_code ?? body?.error?.code ?? null;
}

function describe(failure) {
  const chain = [];
  for (let e = failure; e && !chain.includes(e); e = e.cause ?? e.lastError) chain.push(e);
  const told = chain.find((e) => codeOf(e)) ?? failure;
  const kinds = [];
  for (const e of chain) {
    for (let cls = e.constructor; cls?.name; cls = Object.getPrototypeOf(cls)) kinds.push(cls.name);
  }
  return {
    class: kinds[0] ?? typeof failure,
    kinds,
    code: codeOf(told),
    status: told?.status ?? told?.statusCode ?? null,
    message: String(failure?.message ?? JSON.stringify(failure)).slice(0, 1000),
  };
}

async function play(run, agent) {
  const began = performance.now();
  let answer = null;
  let error = null;
  await agent.meet();
  try {
    answer = await run(agent);
  } catch (failure) {
    error = describe(failure);
  }
  return { answer, executed: agent.executed, error, seconds: (performance.now() - began) / 1000 };
}

async function appearance(path) {
  const deadline = performance.now() + SIGN_MS;
  while (!existsSync(path) && performance.now() < deadline) await new Promise((go) => setTimeout(go, 10));
}

// The tool: its result depends on nothing but its argument.
async function search(agent, query) {
  agent.executed.push(query);
  await agent.meet();
  if (agent.job.tool_until) await appearance(agent.job.tool_until);
  return `Nothing was found about ${JSON.stringify(query)}; the archive was searched to the end.`;
}

// Answer jobs from standard input until it ends. `run` plays one agent and returns its final answer.
export async function serve(run) {
  for await (const line of createInterface({ input: process.stdin })) {
    const job = JSON.parse(line);
    const prompts = job.prompts ?? Array.from({ length: job.parallel ?? 1 }, () => job.prompt);
    const count = prompts.length;
    const meet = job.lockstep ? meeting(count) : async () => {};
    const agents = prompts.map((prompt) => {
      const agent = { job, prompt, executed: [], meet };
      agent.search = (query) => search(agent, query);
      return agent;
    });
    process.stdout.write(JSON.stringify(await Promise.all(agents.map((agent) => play(run, agent)))) + "\n");
  }
}
