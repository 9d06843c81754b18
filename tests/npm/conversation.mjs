// A conversation of the AI SDK, which OpenCode and others are built on, with a server; what came of it, as JSON.
//
//     node conversation.mjs '{"url": ..., "model": ..., "question": ..., "please": ..., "long": ..., "picture": ...}'

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const given = JSON.parse(process.argv[2]);
const server = createOpenAICompatible({
  name: "local",
  baseURL: given.url,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = server(given.model);
const asked = { model, prompt: given.question, maxRetries: 0 };
const thinking = { ...asked, providerOptions: { local: { reasoningEffort: "high" } } };
const called = [];
const acting = {
  model,
  prompt: given.please,
  maxRetries: 0,
  stopWhen: stepCountIs(2),
  tools: {
    sky: tool({
      description: "Tells what the sky is like.",
      inputSchema: z.object({ city: z.enum(["Oslo", "Rome"]), now: z.boolean() }),
      execute: async (input) => {
        called.push(input);
        return "sunny";
      },
    }),
  },
};

const steps = ({ steps }) => steps.map(({ finishReason, text }) => ({ finishReason, text }));

async function whole(asked) {
  const { text, reasoningText, finishReason, usage, warnings } = await generateText(asked);
  return { text, reasoningText, finishReason, usage, warnings };
}

async function streamed(asked) {
  const parts = [];
  for await (const part of streamText({ ...asked, onError: () => {} }).fullStream) parts.push(part);
  const said = (type) => parts.filter((part) => part.type === type).map((part) => part.text).join("");
  const end = parts.findLast((part) => part.type === "finish");
  const errors = parts.filter((part) => part.type === "error").map(({ error }) => refusal(error));
  return { text: said("text-delta"), reasoningText: said("reasoning-delta"), usage: end?.totalUsage, errors };
}

const refusal = ({ name, statusCode, message, data }) => ({ name, statusCode, message, code: data?.error?.code });

async function refused(asked) {
  try {
    await generateText(asked);
    return null;
  } catch (error) {
    return refusal(error);
  }
}

const yes = z.object({ answer: z.enum(["yes", "no"]), sure: z.boolean() });
const shown = [
  { type: "image", image: Buffer.from(given.picture, "base64"), mediaType: "image/png" },
  { type: "text", text: given.question },
];
const wrong = [
  { ...asked, model: server("nobody/nothing") },
  { ...asked, prompt: given.long },
  { ...asked, temperature: -1 },
];
const errors = [];
for (const each of wrong) errors.push(await refused(each), ...(await streamed(each)).errors);

const told = {
  plain: await whole(asked),
  streamed: await streamed(asked),
  thinking: await whole(thinking),
  thinkingStreamed: await streamed(thinking),
  structure: (await generateText({ ...asked, output: Output.object({ schema: yes }) })).output,
  picture: await whole({ model, maxRetries: 0, messages: [{ role: "user", content: shown }] }),
  acting: steps(await generateText(acting)),
  actingStreamed: await streamed(acting),
  called,
  errors,
};
console.log(JSON.stringify(told));
