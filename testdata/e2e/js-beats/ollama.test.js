// Ollama's own JavaScript client.
import { Ollama } from 'ollama';
import { chatModel, endings, messages, question } from './lab.js';

endings('ollama chat', async function* (host) {
  const stream = await new Ollama({ host }).chat({ model: chatModel, messages, stream: true });
  for await (const chunk of stream) yield chunk.message.content;
}, { empty: true, cut: /terminated/ });

endings('ollama generate', async function* (host) {
  const stream = await new Ollama({ host }).generate({ model: chatModel, prompt: question, stream: true });
  for await (const chunk of stream) yield chunk.response;
}, { empty: true, cut: /terminated/ });
