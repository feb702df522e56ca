// Vercel's AI SDK with its provider for Ollama.
import { jsonSchema, streamText } from 'ai';
import { createOllama } from 'ai-sdk-ollama';
import { agentModel, calls, chatModel, endings, question, tool } from './lab.js';

const ask = (baseURL) =>
  streamText({ model: createOllama({ baseURL })(chatModel), prompt: question, maxRetries: 0, onError: () => {} });

endings('ai-sdk fullStream', async function* (url) {
  for await (const part of ask(url).fullStream) {
    if (part.type === 'error') throw part.error;
    if (part.type === 'text-delta') yield part.text;
  }
}, { cut: /terminated/ });

endings('ai-sdk textStream', (url) => ask(url).textStream, { cut: /terminated/ });

calls('ai-sdk', async (baseURL, task) => {
  const said = streamText({
    model: createOllama({ baseURL })(agentModel), prompt: task, maxRetries: 0, onError: () => {},
    tools: { [tool.name]: { description: tool.description, inputSchema: jsonSchema(tool.parameters) } },
  });
  return { text: await said.text, calls: (await said.toolCalls).map(({ toolName, input }) => [toolName, input]) };
});
