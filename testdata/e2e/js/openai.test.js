// OpenAI's own JavaScript client, for which foreman's token is the key.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import OpenAI from 'openai';
import { chatModel, each, earModel, earUrl, embedModel, question, silence, token, url } from './lab.js';

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: token, maxRetries: 0 });
const ask = { model: chatModel, messages: [{ role: 'user', content: question }], max_tokens: 12 };

test('openai: chat, whole and streamed', async () => {
  const whole = await client.chat.completions.create(ask);
  assert.notEqual(whole.choices[0].message.content, '');
  const stream = await client.chat.completions.create({ ...ask, stream: true });
  const texts = await each(stream, (chunk) => chunk.choices[0].delta.content);
  assert.equal(texts.join(''), whole.choices[0].message.content);
  assert.ok(texts.length >= 12, `${texts.length} chunks`);
});

test('openai: responses, whole and streamed', async () => {
  const asked = { model: chatModel, input: question, max_output_tokens: 12 };
  const whole = await client.responses.create(asked);
  assert.notEqual(whole.output_text, '');
  const events = await each(await client.responses.create({ ...asked, stream: true }));
  const texts = events.filter((event) => event.type === 'response.output_text.delta').map((event) => event.delta);
  assert.equal(texts.join(''), whole.output_text);
  assert.equal(events.at(-1).type, 'response.completed');
  await assert.rejects(client.responses.create({ ...asked, model: 'absent' }), OpenAI.NotFoundError);
});

test('openai: abort', async () => {
  const stream = await client.chat.completions.create({ ...ask, max_tokens: 80000, stream: true });
  for await (const chunk of stream) if (chunk.choices[0].delta.content) stream.controller.abort();
  assert.notEqual((await client.chat.completions.create(ask)).choices[0].message.content, '');
});

test('openai: transcriptions', async () => {
  const hears = new OpenAI({ baseURL: `${earUrl}/v1`, apiKey: token, maxRetries: 0 });
  const file = new File([silence()], 'silence.wav', { type: 'audio/wav' });
  const { text } = await hears.audio.transcriptions.create({ file, model: earModel });
  assert.notEqual(text, '');
  await assert.rejects(hears.audio.transcriptions.create({ file, model: 'absent' }), (err) => {
    assert.ok(err instanceof OpenAI.NotFoundError, err);
    assert.equal(err.code, 'model_not_found');
    return true;
  });
});

test('openai: embed', async () => {
  // Without encoding_format this client asks for base64, and reads it blindly.
  const { data } = await client.embeddings.create({ model: embedModel, input: ['one', 'two'], encoding_format: 'float' });
  assert.equal(data.length, 2);
  assert.notDeepEqual(data[0].embedding, data[1].embedding);
});

test('openai: models', async () => {
  const names = await each(client.models.list(), (model) => model.id);
  assert.deepEqual(names.sort(), [`${chatModel}:latest`, `${embedModel}:latest`]);
  assert.equal((await client.models.retrieve(chatModel)).id, chatModel);
});

test('openai: errors', async () => {
  await assert.rejects(client.chat.completions.create({ ...ask, model: 'absent' }), (err) => {
    assert.ok(err instanceof OpenAI.NotFoundError, err);
    assert.equal(err.type, 'invalid_request_error');
    assert.equal(err.code, 'model_not_found');
    assert.match(err.message, /model 'absent' not found/);
    return true;
  });
  const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: 'simsim', maxRetries: 0 });
  await assert.rejects(each(stranger.models.list()), OpenAI.AuthenticationError);
});
