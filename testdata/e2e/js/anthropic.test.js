// Anthropic's own client, which sends its key as x-api-key and its token as a bearer.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { chatModel, question, token, url } from './lab.js';

const connect = (secret) => new Anthropic({ baseURL: url, apiKey: null, authToken: null, maxRetries: 0, ...secret });
const ask = { model: chatModel, max_tokens: 12, messages: [{ role: 'user', content: question }] };

for (const by of ['authToken', 'apiKey']) {
  test(`anthropic: messages, whole and streamed, by ${by}`, async () => {
    const client = connect({ [by]: token });
    const whole = await client.messages.create(ask);
    assert.notEqual(whole.content[0].text, '');
    const texts = [];
    const streamed = await client.messages.stream(ask).on('text', (text) => texts.push(text)).finalMessage();
    assert.equal(streamed.content[0].text, whole.content[0].text);
    assert.ok(texts.length >= 12, `${texts.length} pieces`);
  });

  test(`anthropic: a wrong token, by ${by}`, async () => {
    await assert.rejects(connect({ [by]: 'simsim' }).messages.create(ask), Anthropic.AuthenticationError);
  });
}

test('anthropic: an unknown model', async () => {
  await assert.rejects(connect({ authToken: token }).messages.create({ ...ask, model: 'absent' }), (err) => {
    assert.ok(err instanceof Anthropic.NotFoundError, err);
    assert.deepEqual(err.error, { type: 'error', error: { type: 'not_found_error', message: "model 'absent' not found" } });
    return true;
  });
});

test('anthropic: abort', async () => {
  const client = connect({ authToken: token });
  const stream = client.messages.stream({ ...ask, max_tokens: 80000 });
  stream.on('text', () => stream.abort());
  await assert.rejects(stream.done(), Anthropic.APIUserAbortError);
  assert.notEqual((await client.messages.create(ask)).content[0].text, '');
});
