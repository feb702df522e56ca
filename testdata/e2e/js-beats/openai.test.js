// OpenAI's own JavaScript client.
import OpenAI from 'openai';
import { chatModel, endings, messages, question } from './lab.js';

const connect = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 });

endings('openai chat', async function* (url) {
  const stream = await connect(url).chat.completions.create({ model: chatModel, messages, stream: true });
  for await (const chunk of stream) yield chunk.choices[0].delta.content;
}, { cut: /terminated/ });

endings('openai responses', async function* (url) {
  const stream = await connect(url).responses.create({ model: chatModel, input: question, stream: true });
  for await (const event of stream) if (event.type === 'response.output_text.delta') yield event.delta;
}, { cut: /terminated/ });
