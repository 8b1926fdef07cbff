// Agents written by hand with the OpenAI SDK for Node: a tool loop, and ReAct in text.
// Speaks the protocol of protocol.py: a job per line in, a list of results per line out.
import { createInterface } from "node:readline";
import OpenAI from "openai";

const MAX_STEPS = 12;
const TOOLS = [
  {
    type: "function",
    function: {
      name: "search",
      description: "Search the archive.",
      parameters: { type: "object", properties: { query: { type: "string" } }, required: ["query"] },
    },
  },
];
const REACT =
  "Answer the question. Write 'Action: search' and 'Action Input: {\"query\": …}' to use the tool, " +
  "which should be one of [search], or 'Final Answer: …' when you know.";

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

async function search(agent, query) {
  agent.executed.push(query);
  await agent.meet();
  if (agent.job.tool_s) await new Promise((resolve) => setTimeout(resolve, 1000 * agent.job.tool_s));
  return `Nothing was found about ${JSON.stringify(query)}; the archive was searched to the end.`;
}

async function ask(client, agent, messages, more) {
  const request = { model: agent.job.model, messages, ...more };
  if (!agent.job.stream) {
    return (await client.chat.completions.create(request)).choices[0].message;
  }
  let text = "";
  const calls = [];
  for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
    const delta = chunk.choices[0].delta;
    text += delta.content ?? "";
    for (const part of delta.tool_calls ?? []) {
      const call = (calls[part.index] ??= { id: "", type: "function", function: { name: "", arguments: "" } });
      call.id = part.id ?? call.id;
      call.function.name += part.function?.name ?? "";
      call.function.arguments += part.function?.arguments ?? "";
    }
  }
  const message = { role: "assistant", content: text || null };
  return calls.length ? { ...message, tool_calls: calls } : message;
}

async function toolLoop(client, agent) {
  const messages = [
    { role: "system", content: "You are a careful researcher." },
    { role: "user", content: agent.prompt },
  ];
  for (let step = 0; step < MAX_STEPS; step++) {
    const message = await ask(client, agent, messages, { tools: TOOLS });
    messages.push(message);
    if (!message.tool_calls?.length) return message.content ?? "";
    for (const call of message.tool_calls) {
      const found = await search(agent, JSON.parse(call.function.arguments).query);
      messages.push({ role: "tool", tool_call_id: call.id, content: found });
    }
  }
  return null;
}

async function react(client, agent) {
  const messages = [
    { role: "system", content: REACT },
    { role: "user", content: agent.prompt },
  ];
  for (let step = 0; step < MAX_STEPS; step++) {
    const text = (await ask(client, agent, messages, { temperature: 0 })).content ?? "";
    messages.push({ role: "assistant", content: text });
    if (text.includes("Final Answer:")) return text.split("Final Answer:")[1].trim();
    const wanted = /Action Input: (\{.*\})/.exec(text);
    const found = await search(agent, wanted ? JSON.parse(wanted[1]).query : "nothing");
    messages.push({ role: "user", content: `Observation: ${found}` });
  }
  return null;
}

function describe(failure) {
  const kinds = [];
  for (let cls = failure?.constructor; cls?.name; cls = Object.getPrototypeOf(cls)) kinds.push(cls.name);
  return {
    class: kinds[0],
    kinds,
    code: failure?.code ?? null,
    status: failure?.status ?? null,
    message: String(failure?.message ?? failure).slice(0, 1000),
  };
}

async function play(agent) {
  const began = performance.now();
  let answer = null;
  let error = null;
  await agent.meet();
  try {
    const { job } = agent;
    const client = new OpenAI({
      baseURL: job.base_url,
      apiKey: job.api_key,
      ...(job.max_retries === undefined || job.max_retries === null ? {} : { maxRetries: job.max_retries }),
      ...(job.headers ? { defaultHeaders: job.headers } : {}),
    });
    answer = await (job.style === "react" ? react : toolLoop)(client, agent);
  } catch (failure) {
    error = describe(failure);
  }
  return { answer, executed: agent.executed, error, seconds: (performance.now() - began) / 1000 };
}

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  const prompts = job.prompts ?? Array.from({ length: job.parallel ?? 1 }, () => job.prompt);
  const count = prompts.length;
  const meet = job.lockstep ? meeting(count) : async () => {};
  const agents = prompts.map((prompt) => ({ job, prompt, executed: [], meet }));
  process.stdout.write(JSON.stringify(await Promise.all(agents.map(play))) + "\n");
}
