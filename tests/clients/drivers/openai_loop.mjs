// Agents written by hand with the OpenAI SDK for Node: a tool loop, and ReAct in text.
import OpenAI from "openai";

import { options, serve } from "./protocol.mjs";

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
      const found = await agent.search(JSON.parse(call.function.arguments).query);
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
    const found = await agent.search(wanted ? JSON.parse(wanted[1]).query : "nothing");
    messages.push({ role: "user", content: `Observation: ${found}` });
  }
  return null;
}

await serve((agent) => {
  const client = new OpenAI(options(agent.job));
  return (agent.job.style === "react" ? react : toolLoop)(client, agent);
});
