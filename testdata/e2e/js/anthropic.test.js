// Anthropic's own client. This Ollama is older than /v1/messages: what can be
// seen are the errors that foreman itself raises there.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import Anthropic from '@anthropic-ai/sdk';
import { question, token, url } from './lab.js';

const connect = (authToken) => new Anthropic({ baseURL: url, apiKey: null, authToken, maxRetries: 0 });
const ask = { model: 'absent', max_tokens: 12, messages: [{ role: 'user', content: question }] };

test('anthropic: an unknown model', async () => {
  await assert.rejects(connect(token).messages.create(ask), (err) => {
    assert.ok(err instanceof Anthropic.NotFoundError, err);
    assert.deepEqual(err.error, { type: 'error', error: { type: 'not_found_error', message: "model 'absent' not found" } });
    return true;
  });
});

test('anthropic: a wrong token', async () => {
  await assert.rejects(connect('simsim').messages.create(ask), Anthropic.AuthenticationError);
});
