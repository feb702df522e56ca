// OpenAI's own JavaScript client.
import assert from 'node:assert/strict';
import OpenAI from 'openai';
import { chatModel, endings, messages, question } from './lab.js';

const connect = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: 'any', maxRetries: 0 });

endings('openai chat', async function* (url) {
  const stream = await connect(url).chat.completions.create({ model: chatModel, messages, stream: true });
  for await (const chunk of stream) yield chunk.choices[0].delta.content;
}, { empty: true, cut: /terminated/ });

endings('openai chat, .stream()', async function* (url) {
  const stream = connect(url).chat.completions.stream({ model: chatModel, messages });
  const pieces = [];
  stream.on('content', (piece) => pieces.push(piece));
  try {
    const whole = await stream.finalChatCompletion();
    assert.equal(whole.choices[0].message.content, pieces.join(''));
    assert.notEqual(whole.id, '');
  } finally {
    yield* pieces;
  }
}, { cut: /terminated/ });

endings('openai responses', async function* (url) {
  const stream = await connect(url).responses.create({ model: chatModel, input: question, stream: true });
  for await (const event of stream) if (event.type === 'response.output_text.delta') yield event.delta;
}, { cut: /terminated/ });
