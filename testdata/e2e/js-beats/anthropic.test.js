// Anthropic's own client: the plain stream, and the helper that gathers a message.
import Anthropic from '@anthropic-ai/sdk';
import { chatModel, endings, messages } from './lab.js';

const connect = (baseURL) => new Anthropic({ baseURL, apiKey: 'any', maxRetries: 0 });
const ask = { model: chatModel, max_tokens: 32, messages };
const text = (event) => event.type === 'content_block_delta' && event.delta.type === 'text_delta';

endings('anthropic create', async function* (url) {
  const stream = await connect(url).messages.create({ ...ask, stream: true });
  for await (const event of stream) if (text(event)) yield event.delta.text;
}, { cut: /terminated/ });

endings('anthropic stream', async function* (url) {
  const stream = connect(url).messages.stream(ask);
  for await (const event of stream) if (text(event)) yield event.delta.text;
  await stream.finalMessage();
}, { cut: /terminated/ });
