// A tool loop written by hand with the Anthropic SDK for Node.
import Anthropic from "@anthropic-ai/sdk";

import { options, serve } from "./protocol.mjs";

const MAX_STEPS = 12;
const MAX_TOKENS = 1024;
const TOOLS = [
  {
    name: "search",
    description: "Search the archive.",
    input_schema: { type: "object", properties: { query: { type: "string" } }, required: ["query"] },
  },
];

async function run(agent) {
  const client = new Anthropic(options(agent.job));
  const messages = [{ role: "user", content: agent.prompt }];
  for (let step = 0; step < MAX_STEPS; step++) {
    const request = {
      model: agent.job.model,
      max_tokens: MAX_TOKENS,
      system: "You are a careful researcher.",
      messages,
      tools: TOOLS,
    };
    const message = agent.job.stream
      ? await client.messages.stream(request).finalMessage()
      : await client.messages.create(request);
    messages.push({ role: "assistant", content: message.content });
    // Whatever the stop reason says: an agent that looks only at the blocks runs the more of them.
    const results = [];
    for (const block of message.content) {
      if (block.type !== "tool_use") continue;
      const content = await agent.search(block.input.query);
      results.push({ type: "tool_result", tool_use_id: block.id, content });
    }
    if (!results.length) {
      return message.content.map((block) => (block.type === "text" ? block.text : "")).join("");
    }
    messages.push({ role: "user", content: results });
  }
  return null;
}

await serve(run);
