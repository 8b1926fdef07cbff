// A tool loop written by hand with the OpenAI SDK for Node on the Responses API. It keeps the history itself,
// or with `style: kept` leaves it to the provider and names the response before.
import OpenAI from "openai";

import { AnswerFailed, options, serve } from "./protocol.mjs";

const MAX_STEPS = 12;
const TOOLS = [
  {
    type: "function",
    name: "search",
    description: "Search the archive.",
    parameters: {
      type: "object",
      properties: { query: { type: "string" } },
      required: ["query"],
      additionalProperties: false,
    },
    strict: true,
  },
];

async function ask(client, agent, kept, input, before) {
  const request = {
    model: agent.job.model,
    instructions: "You are a careful researcher.",
    input,
    tools: TOOLS,
    ...before,
  };
  if (!agent.job.stream) return await client.responses.create(request);
  if (kept) return await client.responses.stream(request).finalResponse();
  let final = null;
  for await (const event of await client.responses.create({ ...request, stream: true })) {
    // The SDK hands failures over as events like any other: it is the caller who has to look.
    if (event.type === "response.failed") {
      throw new AnswerFailed(event.response.error.code, event.response.error.message);
    }
    if (event.type === "error") throw new AnswerFailed(event.code, event.message);
    if (event.type === "response.completed") final = event.response;
  }
  if (final === null) throw new AnswerFailed("no_end", "the stream ended without saying how");
  return final;
}

async function run(agent) {
  const client = new OpenAI(options(agent.job));
  const kept = agent.job.style === "kept";
  let input = [{ role: "user", content: agent.prompt }];
  let before = {};
  for (let step = 0; step < MAX_STEPS; step++) {
    const response = await ask(client, agent, kept, input, before);
    const results = [];
    for (const item of response.output) {
      if (item.type !== "function_call") continue;
      const output = await agent.search(JSON.parse(item.arguments).query);
      results.push({ type: "function_call_output", call_id: item.call_id, output });
    }
    if (!results.length) {
      const said = response.output.flatMap((item) => (item.type === "message" ? item.content : []));
      return said.map((part) => part.text ?? "").join("");
    }
    before = kept ? { previous_response_id: response.id } : {};
    input = kept ? results : [...input, ...response.output, ...results];
  }
  return null;
}

await serve(run);
