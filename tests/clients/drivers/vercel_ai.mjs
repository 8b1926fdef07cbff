// The tool agent of Vercel's `ai`, on what `openai(…)` and `anthropic(…)` stand for.
import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

import { AnswerFailed, serve } from "./protocol.mjs";

// It warns on standard output, where the results go.
globalThis.AI_SDK_LOG_WARNINGS = false;

function modelOf(job) {
  const how = { apiKey: job.api_key, ...(job.headers ? { headers: job.headers } : {}) };
  if (job.style === "anthropic") {
    return createAnthropic({ ...how, baseURL: `${job.base_url}/v1` })(job.model);
  }
  const openai = createOpenAI({ ...how, baseURL: job.base_url });
  return job.style === "chat" ? openai.chat(job.model) : openai(job.model);
}

async function run(agent) {
  const { job } = agent;
  const request = {
    model: modelOf(job),
    system: "You are a careful researcher.",
    prompt: agent.prompt,
    tools: {
      search: tool({
        description: "Search the archive.",
        inputSchema: z.object({ query: z.string() }),
        execute: ({ query }) => agent.search(query),
      }),
    },
    stopWhen: stepCountIs(12),
    ...(job.max_retries === undefined || job.max_retries === null ? {} : { maxRetries: job.max_retries }),
  };
  if (!job.stream) return (await generateText(request)).text;
  const result = streamText({ ...request, onError: () => {} });
  for await (const part of result.fullStream) {
    // A failure is a part of the stream like any other: it is the caller who has to look.
    if (part.type === "error") throw part.error;
  }
  const finished = await result.finishReason;
  if (finished !== "stop") throw new AnswerFailed(`finish_${finished}`, `the answer ended by ${finished}`);
  return await result.text;
}

await serve(run);
