// Vercel's AI SDK with its provider for Ollama.
import { streamText } from 'ai';
import { createOllama } from 'ai-sdk-ollama';
import { chatModel, endings, question } from './lab.js';

const ask = (baseURL) =>
  streamText({ model: createOllama({ baseURL })(chatModel), prompt: question, maxRetries: 0, onError: () => {} });

endings('ai-sdk fullStream', async function* (url) {
  for await (const part of ask(url).fullStream) {
    if (part.type === 'error') throw part.error;
    if (part.type === 'text-delta') yield part.text;
  }
}, { cut: /terminated/ });

endings('ai-sdk textStream', (url) => ask(url).textStream, { cut: /terminated/ });
