// LangChain's provider for Ollama.
import { ChatOllama } from '@langchain/ollama';
import { chatModel, endings, question } from './lab.js';

endings('langchain', async function* (baseUrl) {
  const model = new ChatOllama({ baseUrl, model: chatModel, maxRetries: 0 });
  for await (const chunk of await model.stream(question)) yield chunk.content;
}, { empty: true, cut: /terminated/ });
